"""A NaN on one of two ranks: nobody takes the step, and on both ranks everything is bitwise as it was."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ranks
from tests.small_run import small_config, write_data
from vlp import training
from vlp.engine.session import Session
from vlp.engine.tensors import optimizer_tensors, read_tensors, write_tensors
from vlp.task import Task
from vlp.types import Batch, Loss

BAD = (3, 5, 6)  # steps that go wrong on rank 1 alone


def work(data: str, out: str, kind: str, bad: tuple[int, ...], max_skips: int) -> None:
    """A run of seven steps; each rank keeps its whole state after every step."""
    rank, forward, save = int(os.environ["RANK"]), Task.forward, Session.checkpoint

    def poisoned(self: Task, batch: Batch) -> Loss:
        loss = forward(self, batch)
        step = _step(self)
        if rank != 1 or step not in bad:
            return loss
        if kind == "loss":
            return Loss(loss.value * math.nan, loss.report)
        loss.value.register_hook(lambda gradient: gradient * math.inf)  # a finite loss with a gradient that is not
        return loss

    def keep(self: Session, step: int) -> None:
        state: dict[str, Any] = dict(self.task.state_dict()) | optimizer_tensors(self.optimizer, self.task)
        write_tensors(Path(f"{out}.state-{rank}-{step}"), state)
        save(self, step)

    Task.forward, Session.checkpoint = poisoned, keep  # type: ignore[method-assign]
    training.run(small_config(data, out, steps=7, checkpoint_every=1, eval_every=0, max_skips=max_skips, mfu=False))


def _step(task: Any) -> int:
    task.calls = getattr(task, "calls", 0) + 1
    return int(task.calls)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "train")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("kind", ["loss", pytest.param("gradient", marks=pytest.mark.slow)])
def test_a_bad_step_on_one_rank_changes_nothing_on_any(kind: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks.finish(ranks.start(2, out, work, str(data), str(out), kind, BAD, 10), out)
    states = {(r, step): read_tensors(Path(f"{out}.state-{r}-{step}")) for r in range(2) for step in range(1, 8)}
    for step in range(1, 8):
        assert equal(states[0, step], states[1, step])
        if step > 1:
            assert equal(states[0, step], states[0, step - 1]) == (step in BAD)
    assert {"teacher.queue_image", "teacher.queue_pointer", "teacher.steps"} <= states[0, 1].keys()
    assert any(name.startswith("exp_avg_sq.") for name in states[0, 1])
    assert all(torch.isfinite(value).all() for value in states[0, 7].values())
    records = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(BAD)
    assert {record["cause"] for record in records} == {f"the {kind} is not finite"}
    keys = [key for rank in records[0]["ranks"] for micro in rank["keys"] for key in micro]
    assert len(keys) == 8  # the step's whole batch, from both ranks
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if '"loss"' in line]
    assert [record.get("skipped_steps", 0) for record in steps] == [0, 0, 1, 1, 2, 3, 3]


@pytest.mark.slow
def test_too_many_in_a_row_end_all_ranks_and_leave_the_keys(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ranks.finish(ranks.start(2, out, work, str(data), str(out), "loss", (2, 4, 5, 6, 7), 3), out, code=1)
    records = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 4, 5, 6]
    assert {rank["rank"] for rank in records[-1]["ranks"]} == {0, 1}
    assert json.loads((out / "run.json").read_text())["starts"][-1]["ended"]["state"] == "failed: DivergenceError"
    assert "3 steps in a row were skipped" in Path(f"{out}.rank0.txt").read_text()
