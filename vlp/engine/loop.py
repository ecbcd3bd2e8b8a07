"""The one training loop. It knows `task(batch) -> Loss`, an optimizer, an iterator and hooks; no model and no data."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vlp.engine.meter import Meter
from vlp.engine.optim import OptimConfig, learning_rate, set_learning_rate
from vlp.engine.run import RunConfig, due
from vlp.engine.seeds import seed_micro_step
from vlp.types import Batch, Loss


class DivergenceError(ArithmeticError):
    """The loss or the gradient is no longer a finite number."""


@dataclass
class Hooks:
    """What happens once in a while, after the step whose number is given."""

    log: Callable[[int, dict[str, float]], None]
    evaluate: Callable[[int], None]
    checkpoint: Callable[[int], None]


def train(
    *,
    task: Any,
    inner: Any,
    optimizer: Any,
    batches: Iterator[Batch],
    accelerator: Accelerator,
    run: RunConfig,
    optim: OptimConfig,
    hooks: Hooks,
    start: int = 0,
) -> None:
    """Train from after step `start` to step `run.steps`, counted from 1. `task` is wrapped, `inner` is the task itself.

    `batches` yields `run.accumulate` micro batches a step. Gradients are averaged over them, so a loss that compares
    the pairs of a batch with each other (contrast, negatives) sees one micro batch at a time.
    Raises DivergenceError for a loss or gradient that is not finite, before it reaches the weights.
    """
    parameters = [p for p in inner.parameters() if p.requires_grad]
    meter = Meter(accelerator.num_processes)
    task.train()
    for step in range(start + 1, run.steps + 1):
        # schedule
        rate = learning_rate(step, run.steps, optim)
        set_learning_rate(optimizer, rate)

        # micro steps
        losses, keys = [], []
        for micro in range(run.accumulate):
            with meter.waiting():
                batch = next(batches).to(accelerator.device)
            seed_micro_step(run.seed, step, micro, accelerator.process_index)
            with accelerator.accumulate(task):
                loss = task(batch)
                accelerator.backward(loss.value)
            losses.append(loss)
            keys.append(batch.keys)
            meter.count(len(batch))

        # clip
        norm = accelerator.clip_grad_norm_(parameters, optim.clip or math.inf)
        check_finite(step, losses, keys, None if accelerator.scaler else norm)

        # optimizer
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        # after_step
        inner.after_step()

        # log
        if due(step, run.log_every, run.steps):
            report = mean_report(losses, accelerator)
            hooks.log(step, report | {"lr": rate, "grad_norm": float(norm)} | meter.read())

        # evaluate
        if due(step, run.eval_every, run.steps):
            with meter.pause():
                hooks.evaluate(step)

        # checkpoint
        if due(step, run.checkpoint_every, run.steps):
            with meter.pause():
                hooks.checkpoint(step)


def mean_report(losses: list[Loss], accelerator: Accelerator) -> dict[str, float]:
    """Every reported scalar, averaged over the micro steps and the ranks of one step; "loss" is the value minimised."""
    reports = [loss.report | {"loss": loss.value.detach()} for loss in losses]
    names = sorted(reports[0])
    table = torch.stack([torch.stack([report[name].float() for name in names]) for report in reports])
    mean = accelerator.reduce(table.mean(dim=0), reduction="mean")
    return dict(zip(names, mean.tolist(), strict=True))


def check_finite(step: int, losses: list[Loss], keys: list[list[str]], norm: Tensor | None) -> None:
    """Raise DivergenceError naming the step and the keys of the guilty micro batch.

    `norm` is the gradient's norm, or None under loss scaling, where an overflow is met by a smaller scale.
    """
    values = torch.stack([loss.value.detach().float() for loss in losses] + ([] if norm is None else [norm])).tolist()
    for i, value in enumerate(values):
        if math.isfinite(value):
            continue
        if i < len(losses):
            terms = ", ".join(f"{k} {float(v):.4g}" for k, v in losses[i].report.items())
            raise DivergenceError(f"step {step}: the loss is {value} ({terms}); its batch is {_names(keys[i])}")
        every = [key for micro in keys for key in micro]
        raise DivergenceError(f"step {step}: the gradient's norm is {value}; the step's batch is {_names(every)}")


def _names(keys: list[str]) -> str:
    return ", ".join(keys) if keys else "without keys"
