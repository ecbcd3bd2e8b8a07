"""Signals really sent: the step is finished, the state saved, the exit code is 75, and resuming loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import ranks
from tests.small_run import small_config, write_data
from tests.test_resume import final, lines
from vlp import training
from vlp.engine import checkpoint
from vlp.engine.signals import EXIT_CODE, Interrupted, StopSignals, held_back

STEPS = 40


def work(data: str, out: str, resume: bool, workers: int = 0) -> None:
    config = small_config(data, out, steps=STEPS, checkpoint_every=0, eval_every=0, keep=0)
    config.data.workers = workers
    training.run(config, resume=resume)


def work_with_an_endless_evaluation(data: str, out: str) -> None:
    def evaluate(*args: Any, **kwargs: Any) -> None:
        Path(f"{out}.evaluating").touch()
        while True:
            time.sleep(0.05)

    training.evaluate = evaluate  # type: ignore[attr-defined]
    training.run(small_config(data, out, steps=STEPS, checkpoint_every=0, eval_every=5))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="module")
def unbroken(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`unbroken(world)`: the folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("unbroken")

    def run(world: int) -> Path:
        out = folder / f"world-{world}"
        if not out.exists():
            ranks.finish(ranks.start(world, out, work, str(data), str(out), False), out)
        return out

    return run


def wait_for(path: Path, processes: list[Any], count: int = 1) -> None:
    """Until a file has so many lines (0: until it is there)."""
    while not path.is_file() or path.read_text().count("\n") < count:
        assert any(process.is_alive() for process in processes), "the run ended before it could be stopped"
        time.sleep(0.01)


def check_stopped_and_resumed(out: Path, whole: Path, data: Path, world: int, name: str) -> None:
    last = max(record["step"] for record in lines(out))
    assert 3 <= last < STEPS
    (saved,) = checkpoint.list_checkpoints(out)
    assert checkpoint.read_state(saved)["step"] == last  # no step is done twice, none is lost
    ended = json.loads((out / "run.json").read_text())["starts"][-1]["ended"]
    assert (ended["state"], ended["step"]) == (f"stopped by {name}", last)
    ranks.finish(ranks.start(world, out, work, str(data), str(out), True), out)
    assert lines(out) == lines(whole)
    assert final(out, STEPS) == final(whole, STEPS)
    assert json.loads((out / "run.json").read_text())["starts"][-1]["ended"]["state"] == "finished"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1))]
)
def test_a_signal_stops_a_run_that_goes_on_as_if_it_had_not(
    number: signal.Signals, data: Path, unbroken: Callable[[int], Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    processes = ranks.start(1, out, work, str(data), str(out), False)
    wait_for(out / "log.jsonl", processes, 3)
    os.kill(processes[0].pid, number)
    ranks.finish(processes, out, code=EXIT_CODE)
    check_stopped_and_resumed(out, unbroken(1), data, 1, number.name)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_after_the_same_step(
    data: Path, unbroken: Callable[[int], Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    processes = ranks.start(2, out, work, str(data), str(out), False)
    wait_for(out / "log.jsonl", processes, 3)
    os.kill(processes[1].pid, signal.SIGUSR1)
    ranks.finish(processes, out, code=EXIT_CODE)
    check_stopped_and_resumed(out, unbroken(2), data, 2, "another rank")


@pytest.mark.slow
def test_a_signal_to_the_whole_group_spares_the_reading_processes(
    data: Path, unbroken: Callable[[int], Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    processes = ranks.start(1, out, work, str(data), str(out), False, 2)
    wait_for(out / "log.jsonl", processes, 3)
    os.killpg(processes[0].pid, signal.SIGTERM)  # what a scheduler does
    ranks.finish(processes, out, code=EXIT_CODE)
    check_stopped_and_resumed(out, unbroken(1), data, 1, "SIGTERM")


def test_a_signal_ends_an_evaluation(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = ranks.start(1, out, work_with_an_endless_evaluation, str(data), str(out))
    wait_for(Path(f"{out}.evaluating"), processes, 0)
    os.kill(processes[0].pid, signal.SIGTERM)
    ranks.finish(processes, out, code=EXIT_CODE)
    (saved,) = checkpoint.list_checkpoints(out)
    assert saved.name == "step-00000006"  # the evaluation was after step 5; all ranks agree in the next step


def test_handlers_are_put_back_and_a_second_interrupt_is_one() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received is signal.SIGINT
        with pytest.raises(Interrupted), signals.interruptible():
            pass
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_a_process_started_while_signals_are_held_back_is_deaf_to_them_and_none_is_lost() -> None:
    child = [sys.executable, "-c", "import os, signal; [os.kill(os.getpid(), n) for n in (15, 2, 10)]; print('alive')"]
    with StopSignals() as signals:
        with held_back():
            deaf = subprocess.run(child, capture_output=True, text=True)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received is signal.SIGUSR1
        hearing = subprocess.run(child, capture_output=True, text=True)
    assert (deaf.returncode, deaf.stdout) == (0, "alive\n")
    assert (hearing.returncode, hearing.stdout) == (-signal.SIGTERM, "")
