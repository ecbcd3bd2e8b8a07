"""Ranks that hang or freeze are named by the others, which stop; a long pause of all is no fault."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import TCPStore

from tests import ranks
from tests.small_run import small_config, write_data
from vlp import training
from vlp.engine import watch
from vlp.engine.watch import Place, Watch, verdict
from vlp.task import Task
from vlp.types import Batch


def place(moves: int, doing: str = "data", beat: int = 1) -> Place:
    return Place(beat, moves, step=7, doing=doing, seconds=60)


def later(places: dict[int, Place], **moved: int) -> dict[int, Place]:
    """The same places some posts later; `r1=4`: rank 1 has moved to 4."""
    return {r: Place(p.beat + 2, moved.get(f"r{r}", p.moves), p.step, p.doing, p.seconds) for r, p in places.items()}


BEHIND = {0: place(9, "backward"), 1: place(8), 2: place(9, "backward")}
TOGETHER = {0: place(9, "forward"), 1: place(9, "forward")}
PAUSED = {0: place(9, "paused"), 1: place(9, "paused")}


def test_the_late_the_silent_and_the_waiting_are_told_apart() -> None:
    assert verdict(BEHIND, later(BEHIND), 3) == (
        "late: rank 1 (data of step 7, for 60 s); the others wait (backward of step 7, for 60 s)"
    )
    frozen = later(BEHIND) | {1: BEHIND[1]}
    assert verdict(BEHIND, frozen, 3).startswith("not heard of: rank 1 (data of step 7, for 60 s); the others wait")
    assert verdict(TOGETHER, later(TOGETHER), 3).startswith("not heard of: rank 2; the others wait")
    assert verdict(TOGETHER, later(TOGETHER), 2).startswith("all ranks stand at one place (forward of step 7")
    many = {r: place(8 if r % 2 else 9) for r in range(40)}
    assert "rank 15 (data of step 7, for 60 s) and 12 more; the others" in verdict(many, later(many), 40)


def test_pauses_and_progress_end_nothing() -> None:
    assert verdict(PAUSED, later(PAUSED), 2) == ""
    assert verdict(BEHIND, later(BEHIND, r1=9), 3) == ""
    assert verdict(PAUSED, later(PAUSED) | {1: PAUSED[1]}, 2).startswith("not heard of: rank 1")
    assert verdict(PAUSED | {1: place(8)}, later(PAUSED | {1: place(8)}), 2).startswith("late: rank 1 (data")


def test_a_place_survives_its_line() -> None:
    assert Place.unpack(place(12, "an odd phase").pack()) == place(12, "an odd phase")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    return server


def test_two_watches_bear_a_pause_and_then_name_who_is_left_behind(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    meters: list[Any] = [SimpleNamespace(place=(9, "paused"), taken=6) for _ in range(2)]
    told: list[str] = []
    ended = threading.Event()
    monkeypatch.setattr(watch.os, "_exit", lambda code: ended.set())
    first, second = (Watch(m, rank=r, world=2, timeout=0.8, ended=told.append) for r, m in enumerate(meters))
    with first, second:
        time.sleep(2.5)
        assert told == []
        meters[0].place = (10, "forward")
        assert ended.wait(60)
    assert "late: rank 1 (paused of step 7" in told[0]
    assert "the others wait (forward of step 7" in told[0]
    assert "stops: no progress for" in capfd.readouterr().err


def test_training_begins_without_an_answer_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rank may have died this moment; then the next collective says so, at once."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    port = ranks.free_port()
    monkeypatch.setenv("MASTER_PORT", str(port))
    meter: Any = SimpleNamespace(place=(0, "forward"), taken=0)

    def enter() -> None:
        with Watch(meter, rank=1, world=2, timeout=600):
            pass

    entering = threading.Thread(target=enter, daemon=True)
    entering.start()
    entering.join(60)
    assert not entering.is_alive()
    server = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)  # or the watch asks on for 600 s
    for thread in threading.enumerate():
        if thread.name == "watch connects":
            thread.join(60)
            assert not thread.is_alive()
    del server


def hang(data: str, out: str, rank: int, how: str) -> None:
    """A run of which one rank sleeps over its third batch, or freezes in its third forward pass."""
    calls = iter(range(1, 1000))
    if os.environ["RANK"] == str(rank) and how == "sleeps":
        move = Batch.to

        def slow(self: Batch, *arguments: Any) -> Batch:
            time.sleep(600 if next(calls) == 3 else 0)
            return move(self, *arguments)

        Batch.to = slow  # type: ignore[assignment, method-assign]
    if os.environ["RANK"] == str(rank) and how == "freezes":
        forward = Task.forward

        def deadly(self: Task, batch: Batch) -> Any:
            if next(calls) == 3:
                os.kill(os.getpid(), signal.SIGSTOP)
            return forward(self, batch)

        Task.forward = deadly  # type: ignore[method-assign]
    training.run(small_config(data, out, steps=50, checkpoint_every=0, eval_every=0, mfu=False, timeout=8.0))


def told_by(out: Path, rank: int) -> str:
    return Path(f"{out}.rank{rank}.txt").read_text()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "train")


@pytest.mark.slow
def test_a_rank_that_sleeps_is_named_by_all(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks.finish(ranks.start(2, out, hang, str(data), str(out), 1, "sleeps"), out, code=1, seconds=120)
    for rank in range(2):
        assert f"rank {rank} stops: no progress for" in told_by(out, rank)
        assert "late: rank 1 (data of step 3, for" in told_by(out, rank)
    assert "in slow" in told_by(out, 1)  # the stack says where
    state = json.loads((out / "run.json").read_text())["starts"][-1]["ended"]["state"]
    assert "late: rank 1 (data of step 3" in state


@pytest.mark.slow
@pytest.mark.parametrize(("frozen", "message"), [(1, "not heard of: rank 1"), (0, "rank 0, or the launcher")])
def test_a_frozen_rank_is_named_by_the_other(frozen: int, message: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = ranks.start(2, out, hang, str(data), str(out), frozen, "freezes")
    other = processes[1 - frozen]
    other.join(120)
    processes[frozen].kill()
    assert other.exitcode == 1, told_by(out, 1 - frozen)[-2000:]
    assert message in told_by(out, 1 - frozen)
