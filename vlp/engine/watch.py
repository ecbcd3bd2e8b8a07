"""A rank that hangs, named: collectives wait for the last rank in silence, so each rank tells a store where it stands.

A rank is late when others have come further, and silent when even its thread posts no more: frozen, killed without
closing its connections, or cut off. Two ranks in one phase of one step cannot be told apart; the stacks can.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from vlp.engine.meter import Meter

POSTS = 8  # messages of a rank in the time after which it counts as standing still
SHOWN = 8  # ranks that a message names one by one
NO_ANSWER = "the store where the ranks meet does not answer: rank 0, or the launcher that keeps it, is frozen or gone"


@dataclass(frozen=True)
class Place:
    """Where a rank was when it last posted. `moves` counts phases begun and ended: equal on all ranks at one place."""

    beat: int
    moves: int
    step: int
    doing: str
    seconds: float  # for which it has stood there

    def pack(self) -> str:
        """The place as a line."""
        return f"{self.beat} {self.moves} {self.step} {self.seconds:.0f} {self.doing}"

    @staticmethod
    def unpack(line: str) -> "Place":
        """The place that `pack` wrote."""
        beat, moves, step, seconds, doing = line.split(" ", 4)
        return Place(int(beat), int(moves), int(step), doing, float(seconds))


class Watch:
    """While entered, ends a process whose training has stood still for `timeout` seconds: message, stacks, exit code 1.

    Evaluations and checkpoints may take as long as they need; there only a silent rank ends the run. 0 seconds, or a
    single process: no watch. Traffic: a rank's line every `timeout` / 8 seconds; the training itself sends nothing.
    `ended` is told the message before the process goes.
    """

    def __init__(
        self, meter: Meter, *, rank: int, world: int, timeout: float, ended: Callable[[str], None] = lambda text: None
    ) -> None:
        self.meter, self.rank, self.world, self.timeout, self.ended = meter, rank, world, timeout, ended
        self.period = timeout / POSTS
        self.over = threading.Event()
        self.store: Any = None
        self.thread: threading.Thread | None = None
        self.ending: threading.Timer | None = None
        self.beat = 0
        self.seen, self.since = -1, 0.0

    def __enter__(self) -> "Watch":
        if self.world > 1 and self.timeout > 0:
            # Beside the training, which must not wait for a store whose rank just died: its next collective tells.
            threading.Thread(target=self._connect, name="watch connects", daemon=True).start()
            self.thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        if self.thread is not None:
            self.thread.join(5)

    def _run(self) -> None:
        while not self.over.wait(self.period):
            here = self._stand()
            text = ""
            try:
                self._post(here)
                if here.seconds >= self.timeout:
                    text = self._judge(here)
            except RuntimeError:  # torch's DistError: the process that kept the store is gone
                text = NO_ANSWER if here.seconds >= self.timeout else ""
            if text and not self.over.is_set() and not self.ending:
                self._end(f"no progress for {here.seconds:.0f} s: {text}")

    def _stand(self) -> Place:
        moves, doing = self.meter.place
        if moves != self.seen:
            self.seen, self.since = moves, time.monotonic()
        self.beat += 1
        return Place(self.beat, moves, self.meter.taken + 1, doing, time.monotonic() - self.since)

    def _judge(self, here: Place) -> str:
        before = self._places()
        if before is None:  # the client is stuck in that question, so nothing more can be posted or asked
            return NO_ANSWER
        for _ in range(4):  # others that judge at this moment must be heard of meanwhile, and so must this rank
            self.over.wait(self.period / 2)
            self._post(self._stand())
        after = self._places()
        return NO_ANSWER if after is None else verdict(before, after, self.world)

    def _connect(self) -> None:
        """A client of its own: the training's may be in the middle of a call that never returns."""
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = timedelta(seconds=max(self.timeout, 1))
        with suppress(RuntimeError):
            self.store = dist.TCPStore(  # type: ignore[attr-defined]
                *place, is_master=False, wait_for_workers=False, timeout=patience
            )

    def _post(self, place: Place) -> None:
        if self.store is None:
            raise RuntimeError(NO_ANSWER)
        self.store.set(_key(self.rank), place.pack())

    def _places(self) -> dict[int, Place] | None:
        """Every rank's newest place, or None when the store does not answer within two periods."""
        found: list[dict[int, Place]] = []
        asking = threading.Thread(target=self._ask, args=(found,), daemon=True)
        asking.start()
        asking.join(2 * self.period)
        return found[0] if found else None

    def _ask(self, found: list[dict[int, Place]]) -> None:
        with suppress(RuntimeError):
            ranks = list(range(self.world))
            if not self.store.check([_key(rank) for rank in ranks]):
                ranks = [rank for rank in ranks if self.store.check([_key(rank)])]
            lines = self.store.multi_get([_key(rank) for rank in ranks])
            found.append({rank: Place.unpack(line.decode()) for rank, line in zip(ranks, lines, strict=True)})

    def _end(self, text: str) -> None:
        print(f"rank {self.rank} stops: {text}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        with suppress(OSError, ValueError):
            self.ended(text)
        # Not at once: the others come to the same end by themselves, if this rank's connections do not break before.
        self.ending = threading.Timer(4 * self.period, os._exit, [1])
        self.ending.start()


def verdict(before: Mapping[int, Place], after: Mapping[int, Place], world: int) -> str:
    """Who is late or silent, from two readings of all places some posts apart; "" while somebody gets on or pauses."""
    silent = [r for r in range(world) if r not in after or (r in before and after[r].beat == before[r].beat)]
    heard = {rank: place for rank, place in after.items() if rank not in silent}
    if any(rank in before and before[rank].moves != place.moves for rank, place in heard.items()):
        return ""
    furthest = max(place.moves for place in heard.values())
    late = [rank for rank, place in heard.items() if place.moves < furthest]
    first = next(place for place in heard.values() if place.moves == furthest)
    if not silent and not late:
        text = f"all ranks stand at one place ({_where(first)}); the stacks tell which one the others wait for"
        return "" if first.doing == "paused" else text
    told = [f"not heard of: {_named(silent, after)}"] if silent else []
    told += [f"late: {_named(late, after)}"] if late else []
    return "; ".join([*told, f"the others wait ({_where(first)})"])


def _named(ranks: list[int], places: Mapping[int, Place]) -> str:
    shown = [f"rank {rank}" + (f" ({_where(places[rank])})" if rank in places else "") for rank in ranks[:SHOWN]]
    return ", ".join(shown) + (f" and {len(ranks) - SHOWN} more" if len(ranks) > SHOWN else "")


def _where(place: Place) -> str:
    return f"{place.doing} of step {place.step}, for {place.seconds:.0f} s"


def _key(rank: int) -> str:
    return f"vlp/watch/{rank}"
