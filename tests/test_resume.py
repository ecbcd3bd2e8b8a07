"""Kill a run anywhere, resume it, and nothing shows: the same losses, the same weights, bit for bit.

Runs are processes that die by SIGKILL, at chosen calls (amid a step, or a checkpoint's write, flush, move or
removal) or from outside. They are forked from a server that has imported torch once and has computed nothing.
"""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small_run import small_config, write_data
from vlp import training
from vlp.engine import checkpoint, loop
from vlp.engine.tensors import read_tensors
from vlp.task import Task

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.small_run"])
TIMING = ("samples_per_second", "step_ms", "data_wait", "memory_gb", "mfu", "encode_seconds", "score_seconds")
STEPS = 12


@dataclass
class Kill:
    """Die just before call number `call` of `owner.name`, counted from 1."""

    owner: Any
    name: str
    call: int

    def arm(self) -> None:
        original, calls = getattr(self.owner, self.name), 0

        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == self.call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(self.owner, self.name, deadly)


# Two safetensors files and eight flushes a checkpoint; checkpoints after steps 3, 6, 9 and 12, of which two are kept.
KILLS: dict[str, list[tuple[str, str, int]]] = {
    "before the first checkpoint": [("task", "after_step", 2)],
    "in a step": [("task", "forward", 8)],
    "between optimizer and teacher": [("task", "after_step", 5)],
    "writing weights": [("checkpoint", "write_tensors", 3)],
    "writing optimizer state": [("checkpoint", "write_tensors", 4)],
    "flushing": [("checkpoint", "flush", 12)],
    "before the move": [("checkpoint", "_move_into_place", 2)],
    "after the move": [("checkpoint", "flush", 16)],
    "removing an old one": [("checkpoint", "_remove", 1)],
    "at the very end": [("checkpoint", "_move_into_place", 4)],
    "three times": [("task", "forward", 5), ("checkpoint", "write_tensors", 1), ("task", "after_step", 6)],
}


def train_in_child(data: str, out: str, workers: int, resume: bool, kill: tuple[str, str, int] | None) -> None:
    """One process of a run."""
    quiet = os.open(f"{out}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os.setsid()  # a group of its own: see `check_nobody_left`
    torch.set_num_threads(1)
    multiprocessing.set_forkserver_preload(["vlp.data.loader"])  # of the reading processes
    if kill is not None:
        Kill({"task": Task, "checkpoint": checkpoint, "loop": loop}[kill[0]], *kill[1:]).arm()
    config = small_config(data, out, steps=STEPS, keep=2)
    config.data.workers = workers
    training.run(config, resume=resume)


def start(data: Path, out: Path, *, workers: int = 0, resume: bool = False, kill: Any = None) -> Any:
    process = PROCESSES.Process(target=train_in_child, args=(str(data), str(out), workers, resume, kill))
    process.start()
    return process


def finish(process: Any, out: Path, code: int = 0) -> None:
    process.join(240)
    assert process.exitcode == code, Path(f"{out}.txt").read_text()[-3000:]


def lines(out: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if not k.endswith(TIMING) and "slowest" not in k} for record in records]


def final(out: Path, steps: int = STEPS) -> dict[str, bytes]:
    folder = checkpoint.checkpoint_path(out, steps)
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    finish(start(data, out), out)
    return out


def check_equal(out: Path, unbroken: Path) -> None:
    assert lines(out) == lines(unbroken)
    assert final(out) == final(unbroken)
    assert not list(out.glob(".*"))


def check_nobody_left(group: int, seconds: float = 30) -> None:
    """No process of a dead run's group lives on."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
    raise AssertionError(f"processes of the killed run were still there after {seconds} s")


def test_the_unbroken_run_is_worth_comparing_with(unbroken: Path) -> None:
    records = lines(unbroken)
    losses = {record["step"]: record["loss"] for record in records if "loss" in record}
    assert list(losses) == list(range(1, STEPS + 1))
    assert len(set(losses.values())) == STEPS
    assert [record["step"] for record in records if "retrieval/first/all/rsum" in record] == [5, 10, STEPS]
    state = read_tensors(checkpoint.checkpoint_path(unbroken, STEPS) / "model.safetensors")
    assert int(state["teacher.steps"]) == STEPS
    assert (state["teacher.queue_ids"] >= 0).all()  # the queue has gone round


QUICK = ("in a step", "writing weights")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in KILLS]
)
def test_killed_and_resumed_is_never_stopped(name: str, data: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for i, kill in enumerate(KILLS[name]):
        finish(start(data, out, resume=i > 0, kill=kill), out, code=-signal.SIGKILL)
    finish(start(data, out, resume=True), out)
    check_equal(out, unbroken)


@pytest.mark.slow
def test_reading_processes_change_nothing_and_die_with_their_run(data: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(data, out, workers=2, kill=("task", "forward", 8))
    finish(process, out, code=-signal.SIGKILL)
    check_nobody_left(process.pid)
    finish(start(data, out, workers=2, resume=True), out)
    check_equal(out, unbroken)


@pytest.mark.slow
def test_killed_from_outside_at_any_moment(data: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(data, out)
    while not (out / "log.jsonl").is_file() and process.is_alive():
        time.sleep(0.005)
    time.sleep(time.time() % 0.2)
    process.kill()
    process.join(60)
    finish(start(data, out, resume=True), out)
    check_equal(out, unbroken)


def test_the_comparison_can_fail(data: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(start(data, out, kill=("task", "forward", 8)), out, code=-signal.SIGKILL)
    process = PROCESSES.Process(target=resume_without_seeds, args=(str(data), str(out)))
    process.start()
    finish(process, out)
    assert lines(out)[:7] == lines(unbroken)[:7]  # six steps and the evaluation after the fifth
    assert lines(out)[7]["loss"] != lines(unbroken)[7]["loss"]
    assert final(out) != final(unbroken)


def resume_without_seeds(data: str, out: str) -> None:
    """A loop whose random draws hang on the process's history."""
    loop.seed_micro_step = lambda *place: None
    train_in_child(data, out, 0, True, None)
