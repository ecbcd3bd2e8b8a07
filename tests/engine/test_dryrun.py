"""The dry run: counts by hand, FLOPs by formula, forgotten parameters by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vlp.engine.dryrun import count_parameters, parameter_table, trial_text, try_step
from vlp.types import Batch


def test_parameters_are_counted_once_and_by_whether_they_train() -> None:
    vision, text = nn.Linear(3, 2), nn.Embedding(5, 4)
    vision.bias.requires_grad_(False)
    head = nn.ModuleList([text, nn.Linear(4, 1)])  # holds the text part's embedding again
    vision_count, text_count, head_count = count_parameters({"vision": vision, "text": text, "head": head})
    assert (vision_count.trainable, vision_count.frozen) == (6, 2)
    assert (text_count.trainable, text_count.frozen) == (20, 0)
    assert (head_count.trainable, head_count.frozen) == (5, 0)
    last = parameter_table([vision_count, text_count, head_count]).splitlines()[-1].split()
    assert last == ["total", "31", "2"]


def test_flops_are_the_matrix_products(toy: Callable[..., Any], batch_of: Callable[..., Batch]) -> None:
    run = toy(steps=1)
    trial = try_step(run.task, run.inner, batch_of(0, 6), run.accelerator)
    # (6, 4) @ (4, 1) forward, and one product for the weight's gradient; the input needs none.
    assert trial.flops_per_sample == pytest.approx(2 * (2 * 6 * 4) / 6)
    assert trial.without_gradient == []
    assert "every trainable parameter got a gradient" in trial_text(trial, 6)


def test_forgotten_parameters_are_named_and_nothing_is_left_behind(
    toy: Callable[..., Any], batch_of: Callable[..., Batch]
) -> None:
    run = toy(steps=1)
    run.inner.unused = nn.Linear(2, 2)
    run.inner.frozen = nn.Linear(2, 2).requires_grad_(False)
    before = run.weights()
    trial = try_step(run.task, run.inner, batch_of(0), run.accelerator)
    assert trial.without_gradient == ["unused.weight", "unused.bias"]
    assert "2 trainable parameters got NO gradient:\n  unused.weight\n  unused.bias" in trial_text(trial, 8)
    assert all(torch.equal(value, before[name]) for name, value in run.weights().items())
    assert all(p.grad is None for p in run.inner.parameters())
