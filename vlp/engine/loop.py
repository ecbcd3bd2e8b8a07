"""The one training loop. It knows `task(batch) -> Loss`, an optimizer, an iterator and hooks; no model and no data."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from vlp.engine.guard import Guard
from vlp.engine.meter import Meter
from vlp.engine.micro import micro_steps
from vlp.engine.optim import OptimConfig, learning_rate, set_learning_rate
from vlp.engine.run import RunConfig, due
from vlp.engine.seeds import seed_micro_step
from vlp.types import Batch, Loss


@dataclass
class Hooks:
    """What happens once in a while, after the step whose number is given."""

    log: Callable[[int, dict[str, float], list[dict[str, float]]], None]  # values of the step, and times of each rank
    evaluate: Callable[[int], None]
    checkpoint: Callable[[int], None]
    skip: Callable[[int, str, list[Loss], list[list[str]]], None]  # cause, micro losses and their sample keys
    wants_stop: Callable[[], bool]  # whether this rank was asked to stop


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
    guard: Guard,
    meter: Meter,
    start: int = 0,
) -> int:
    """Train from after step `start` to step `run.steps`, counted from 1. `task` is wrapped, `inner` is the task itself.

    `batches` yields `run.accumulate` micro batches a step. Gradients are averaged over them, so a loss that compares
    the pairs of a batch with each other (contrast, negatives) sees one micro batch at a time; with `run.gradient_cache`
    the contrast of embeddings sees all of them.
    Returns the last step: earlier than `run.steps` when any rank was asked to stop. Raises DivergenceError.
    """
    rank_of = accelerator.process_index, accelerator.num_processes
    parameters = [p for p in inner.parameters() if p.requires_grad]
    task.train()
    for step in range(start + 1, run.steps + 1):
        # schedule
        rate = learning_rate(step, run.steps, optim)
        set_learning_rate(optimizer, rate)

        # micro steps
        losses, keys = [], []
        for micro, (batch, beside) in enumerate(micro_steps(inner, batches, accelerator, run, step, meter)):
            seed_micro_step(run.seed, step, micro, *rank_of, len(batch))
            with accelerator.accumulate(task):
                with meter.timed("forward"):
                    loss = task(batch, *beside)
                with meter.timed("backward"):
                    accelerator.backward(loss.value)
            losses.append(loss)
            keys.append(batch.keys)
            meter.count(len(batch))

        # clip
        norm = accelerator.clip_grad_norm_(parameters, optim.clip or math.inf)

        # optimizer, after_step
        verdict = guard.judge(losses, norm, hooks.wants_stop())
        if verdict.cause is None:
            optimizer.step()
            inner.after_step()
        else:
            hooks.skip(step, verdict.cause, losses, keys)
            guard.check(step, verdict.cause)
            skip_step(inner, accelerator)
        optimizer.zero_grad(set_to_none=True)
        stop = verdict.stop and step < run.steps
        meter.step()

        # log
        if stop or due(step, run.log_every, run.steps):
            values = mean_report(losses, accelerator) | {"lr": rate, "grad_norm": float(norm)}
            rates, ranks = meter.read(accelerator)
            hooks.log(step, values | rates, ranks)

        # evaluate
        if not stop and due(step, run.eval_every, run.steps):
            with meter.timed("paused"):
                hooks.evaluate(step)

        # checkpoint
        if stop or due(step, run.checkpoint_every, run.steps):
            with meter.timed("paused"):
                hooks.checkpoint(step)
        if stop:
            return step
    return run.steps


def skip_step(inner: Any, accelerator: Accelerator) -> None:
    """Forget what the step left for `after_step`; under fp16 the loss scale falls if it overflowed."""
    inner.discard_step()
    if accelerator.scaler is not None:
        accelerator.scaler.update()


def mean_report(losses: list[Loss], accelerator: Accelerator) -> dict[str, float]:
    """Every reported scalar, averaged over the micro steps and the ranks of one step; "loss" is the value minimised."""
    reports = [loss.report | {"loss": loss.value.detach()} for loss in losses]
    names = sorted(reports[0])
    table = torch.stack([torch.stack([report[name].float() for name in names]) for report in reports])
    mean = accelerator.reduce(table.mean(dim=0), reduction="mean")
    return dict(zip(names, mean.tolist(), strict=True))
