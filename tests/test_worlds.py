"""Runs on several ranks: killed at random moments they resume bitwise, and another number of ranks changes no loss."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import ranks
from tests.small_run import small_config, write_data
from tests.test_resume import Kill, final, lines
from vlp import training
from vlp.engine import checkpoint, loop
from vlp.engine.guard import Guard
from vlp.engine.session import Session
from vlp.engine.signals import EXIT_CODE
from vlp.task import Task
from vlp.types import Batch, Loss

STEPS = 30
OWNERS: dict[str, Any] = {"task": Task, "guard": Guard, "checkpoint": checkpoint, "loop": loop}
MOMENTS = (  # of one rank's life; those of a checkpoint are rank 0's alone
    ("task", "forward", 12),
    ("loop", "seed_micro_step", 12),
    ("guard", "judge", 12),
    ("task", "after_step", 12),
    ("checkpoint", "write_tensors", 6),
    ("checkpoint", "flush", 24),
    ("checkpoint", "_move_into_place", 3),
    ("checkpoint", "_remove", 1),
)


def work(
    data: str, out: str, resume: bool, workers: int, kill: tuple[int, str, str, int] | None, steps: int = STEPS
) -> None:
    """Teacher, queue, masks, dropout and crops; rank `kill[0]` dies just before a call."""
    if kill is not None and kill[0] == int(os.environ.get("RANK", "0")):
        Kill(OWNERS[kill[1]], *kill[2:]).arm()
    config = small_config(data, out, steps=steps, checkpoint_every=4, eval_every=0, keep=2, checkpoint_async=True)
    config.data.workers = workers
    training.run(config, resume=resume)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    ranks.finish(ranks.start(2, out, work, str(data), str(out), False, 0, None), out)
    return out


def progress(out: Path) -> int:
    return (out / "log.jsonl").read_text().count("\n") if (out / "log.jsonl").is_file() else 0


def kill_one(data: Path, out: Path, workers: int, draw: random.Random, resume: bool) -> bool:
    """One rank dies at a drawn call; the other must end by itself. False when the run had ended before that call."""
    owner, name, most = draw.choice(MOMENTS)
    rank = 0 if owner == "checkpoint" else draw.randrange(2)
    kill = (rank, owner, name, draw.randint(1, most))
    codes = ranks.finish(ranks.start(2, out, work, str(data), str(out), resume, workers, kill), out, code=None)
    assert codes == [0, 0] or codes[rank] == -signal.SIGKILL, Path(f"{out}.rank{rank}.txt").read_text()[-2000:]
    assert codes == [0, 0] or codes[1 - rank] != 0
    return codes != [0, 0]


def kill_all(data: Path, out: Path, workers: int, draw: random.Random, resume: bool) -> bool:
    """All ranks die from outside, some lines of the log and a moment later."""
    processes = ranks.start(2, out, work, str(data), str(out), resume, workers, None)
    before, wanted = progress(out), draw.randint(1, 6)
    while all(process.is_alive() for process in processes) and progress(out) < before + wanted:
        before = min(before, progress(out))  # a resumed run cuts its log back first
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.05))
    for process in processes:
        process.kill()
    return ranks.finish(processes, out, code=None) != [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "times"), [(kill_one, 5), (kill_all, 3)])
def test_killed_ranks_resume_bitwise(
    kill: Callable[..., bool], times: int, data: Path, unbroken: Path, tmp_path: Path
) -> None:
    """VLP_KILLS and VLP_WORKERS in the environment ask for more kills, and for reading processes."""
    draw, out = random.Random(times), tmp_path / "run"
    times, workers = int(os.environ.get("VLP_KILLS", times)), int(os.environ.get("VLP_WORKERS", "0"))
    kills = 0
    for i in range(times):
        if not kill(data, out, workers, draw, i > 0):
            assert lines(out) == lines(unbroken)
            out = tmp_path / f"run-{i}"
        else:
            kills += 1
    assert kills > times // 2
    ranks.finish(ranks.start(2, out, work, str(data), str(out), True, workers, None), out)
    assert lines(out) == lines(unbroken)
    assert final(out, STEPS) == final(unbroken, STEPS)


LATER = 60  # fifty steps after a kill in the tenth


@pytest.fixture(scope="module")
def long_unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long") / "run"
    ranks.finish(ranks.start(2, out, work, str(data), str(out), False, 0, None, LATER), out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "rank"), [(0, 1), (2, 0)])
def test_the_fifty_steps_after_a_kill_are_those_of_the_unbroken_run(
    workers: int, rank: int, data: Path, long_unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    kill = (rank, "task", "forward", 10)
    codes = ranks.finish(ranks.start(2, out, work, str(data), str(out), False, workers, kill, LATER), out, code=None)
    assert codes[rank] == -signal.SIGKILL
    assert progress(out) < 10
    ranks.finish(ranks.start(2, out, work, str(data), str(out), True, workers, None, LATER), out)
    assert lines(out) == lines(long_unbroken)
    assert len([record for record in lines(out) if "loss" in record]) == LATER
    assert final(out, LATER) == final(long_unbroken, LATER)


# ---------------------------------------------------------------- another number of ranks

CHANGES = (1, 2, 4, 1)  # ranks of each three steps


def three_steps(data: str, out: str, begin: int, most: int) -> None:
    """Contrast with teacher and queue, matching, masked words and crops from step `begin` on, stopped after `most`
    steps; notes the samples."""
    rank, forward, calls = int(os.environ.get("RANK", "0")), Task.forward, iter(range(1, 100))
    asked = iter(range(1, 100))

    def noting(self: Task, batch: Batch) -> Loss:
        with Path(f"{out}.keys-{rank}").open("a") as file:
            file.write(json.dumps([begin + next(calls), rank, batch.keys, batch.caption_id.tolist()]) + "\n")
        return forward(self, batch)

    Task.forward = noting  # type: ignore[method-assign]
    Session.wants_stop = lambda self: next(asked) == most  # type: ignore[method-assign]
    config = small_config(data, out, steps=3 * len(CHANGES), checkpoint_every=0, eval_every=0, mfu=False)
    model: Any = config.model
    for part in ("text", "fusion"):
        model.kwargs[part].kwargs["dropout"] = 0.0
    objectives: Any = config.objectives
    objectives["itm"].kwargs["negatives"].kwargs["within"] = 2  # the share of each of four ranks
    training.run(config, resume=True)


def samples(out: Path) -> dict[int, list[Any]]:
    """Step -> samples of the global batch, in the order of ranks."""
    found = [json.loads(line) for path in out.parent.glob(f"{out.name}.keys-*") for line in path.open()]
    steps: dict[int, list[Any]] = {}
    for step, _, keys, captions in sorted(found):
        steps.setdefault(step, []).extend(zip(keys, captions, strict=True))
    return steps


@pytest.mark.slow
def test_another_number_of_ranks_sees_the_same_samples_and_losses(data: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "changing", tmp_path / "whole"
    ranks.finish(ranks.start(1, whole, three_steps, str(data), str(whole), 0, 99), whole)
    for i, world in enumerate(CHANGES):
        code = 0 if i == len(CHANGES) - 1 else EXIT_CODE
        ranks.finish(ranks.start(world, out, three_steps, str(data), str(out), 3 * i, 3), out, code=code)
    assert samples(out) == samples(whole)
    assert [len(step) for step in samples(whole).values()] == [8] * 12
    losses = [[record["loss"] for record in lines(path) if "loss" in record] for path in (out, whole)]
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][:3] == losses[1][:3]
    assert [start["from_step"] for start in json.loads((out / "run.json").read_text())["starts"]] == [0, 3, 6, 9]
