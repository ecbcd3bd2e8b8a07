"""One objective a step, drawn from (seed, step)."""

from collections import Counter
from typing import Any

import pytest
import torch

from tests.parts import batch, one_stream
from vlp.config import build, lazy
from vlp.task import Task

MIX = {"itm": 1.0, "mlm": 2.0, "wpa": 1.0}


def task(**options: Any) -> Task:
    made: Task = build(lazy(Task)(**one_stream(), **({"mix": MIX} | options)))
    return made


def test_steps_draw_with_the_shares_and_alike_for_every_rank() -> None:
    one, two, other = task(mix_seed=1), task(mix_seed=1), task(mix_seed=2)
    drawn: dict[int, list[str]] = {id(t): [] for t in (one, two, other)}
    for _ in range(800):
        for t in (one, two, other):
            drawn[id(t)] += t.drawn()
            t.after_step()
    assert drawn[id(one)] == drawn[id(two)] != drawn[id(other)]
    counts = Counter(drawn[id(one)])
    for name, share in MIX.items():
        assert abs(counts[name] / 800 - share / 4) < 0.06


def test_a_resumed_task_draws_what_an_unbroken_one_draws() -> None:
    whole, first, second = task(), task(), task()
    expected = [(whole.drawn(), whole.after_step())[0] for _ in range(20)]
    found = [(first.drawn(), first.after_step())[0] for _ in range(7)]
    second.load_state_dict(first.state_dict())
    assert found + [(second.drawn(), second.after_step())[0] for _ in range(13)] == expected


def test_only_the_drawn_objective_counts_and_every_parameter_is_in_the_graph() -> None:
    made, b = task(), batch()
    seen = set()
    for _ in range(12):
        made.zero_grad()
        (name,) = made.drawn()
        torch.manual_seed(3)
        loss = made(b)
        loss.value.backward()
        assert all(p.grad is not None for p in made.parameters())
        torch.testing.assert_close(loss.value, made._weight(name) * loss.report[name])
        touched = any(p.grad.abs().sum() > 0 for p in made.objectives["mlm"].parameters())  # type: ignore[union-attr]
        assert touched == (name == "mlm")
        seen.add(name)
        made.after_step()
    assert seen == set(MIX)


def test_evaluation_sums_them_all() -> None:
    assert task().eval().drawn() == ["itm", "mlm", "wpa"]


@pytest.mark.parametrize("mix", [{"itm": 1.0}, {**MIX, "mlm": 0.0}, {**MIX, "itc": 1.0}])
def test_a_mix_that_leaves_one_out_is_refused(mix: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must give every objective"):
        task(mix=mix)
