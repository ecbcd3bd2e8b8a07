"""Judges every step on all ranks together, before the optimizer moves: take it, skip it, or stop after it."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from vlp.data.tally import Tally
from vlp.engine.run import RunConfig
from vlp.types import Loss

WINDOW, ENOUGH = 128, 32  # steps that a spike is measured against; fewer than ENOUGH say nothing
OVERFLOW = "overflow at this loss scale"


class DivergenceError(ArithmeticError):
    """The loss or the gradient is no longer a finite number."""


@dataclass
class Verdict:
    """What all ranks do with a step."""

    cause: str | None  # why it is skipped; None = it is taken
    stop: bool  # some rank was asked to stop


class Guard:
    """A step whose loss or gradient is not finite on any one rank is skipped on all; with `run.spike`, outliers too.

    Bad samples are summed with the rest, and a share of all ranks' samples above `data.max_bad_share` ends the run on
    all of them. Traffic a step: one all-reduce of seven numbers. Outlier: a loss or gradient norm above the mean of the
    last 128 taken steps by more than `run.spike` standard deviations. `run.max_skips` skipped steps in a row stop the
    run; overflows under fp16's loss scale do not count while the scale can still fall.
    """

    def __init__(self, run: RunConfig, accelerator: Accelerator, tally: Tally | None = None) -> None:
        """`tally` counts the samples that this rank has read, and the bad ones among them."""
        self.run = run
        self.accelerator = accelerator
        self.tally = tally
        self.taken: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # (loss, norm)
        self.skipped = 0
        self.in_a_row = 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to judge as an unbroken one."""
        return {"taken": [list(pair) for pair in self.taken], "skipped": self.skipped, "in_a_row": self.in_a_row}

    def load(self, state: dict[str, Any]) -> None:
        """Take over `state()` of an earlier process."""
        self.taken.extend((loss, norm) for loss, norm in state["taken"])
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

    def judge(self, losses: list[Loss], norm: Tensor | float, stop: bool) -> Verdict:
        """The same verdict on every rank, from each rank's losses and gradient norm and its own wish to stop.

        Raises DataError, on every rank, when too many of the samples that all of them have read were bad.
        """
        local = float(torch.stack([loss.value.detach().float() for loss in losses]).mean())
        read = (0, 0) if self.tally is None else (self.tally.met, self.tally.seen)
        own = [not math.isfinite(local), not math.isfinite(norm), _finite(local), _finite(float(norm)), stop, *read]
        # gloo has no float64 reduction on some devices; seven float32 numbers are exact enough to compare with.
        numbers = torch.tensor([float(n) for n in own], device=self.accelerator.device)
        bad_loss, bad_norm, loss, total, stopping, *read_by_all = self.accelerator.reduce(numbers, "sum").tolist()
        if self.tally is not None:
            self.tally.judge(*(int(count) for count in read_by_all))
        world = self.accelerator.num_processes
        cause = self._cause(bad_loss > 0, bad_norm > 0, loss / world, total / world)
        self._count(cause, loss / world, total / world)
        return Verdict(cause, stopping > 0)

    def _cause(self, bad_loss: bool, bad_norm: bool, loss: float, norm: float) -> str | None:
        if bad_loss:
            return "the loss is not finite"
        if bad_norm:
            return "the gradient is not finite" if self.accelerator.scaler is None else OVERFLOW
        if self.run.spike and len(self.taken) >= ENOUGH:
            losses, norms = zip(*self.taken, strict=True)
            if _outlier(loss, losses, self.run.spike):
                return "the loss is an outlier"
            if _outlier(norm, norms, self.run.spike):
                return "the gradient is an outlier"
        return None

    def _count(self, cause: str | None, loss: float, norm: float) -> None:
        if cause is None:
            self.in_a_row = 0
            if self.run.spike:
                self.taken.append((loss, norm))
            return
        self.skipped += 1
        scaler = self.accelerator.scaler
        if not (cause == OVERFLOW and scaler is not None and scaler.get_scale() > 1):
            self.in_a_row += 1

    def check(self, step: int, cause: str) -> None:
        """Raise DivergenceError when a skipped step is one too many, or could not be skipped."""
        if self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            text = "DeepSpeed has taken the step already; resume from the last checkpoint"
            raise DivergenceError(f"step {step}: {cause}, and {text}")
        if self.in_a_row >= self.run.max_skips:
            raise DivergenceError(
                f"step {step}: {cause}; {self.in_a_row} steps in a row were skipped (run.max_skips). "
                f"Their samples are listed in {self.run.out}/skipped.jsonl"
            )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _outlier(value: float, values: tuple[float, ...], times: float) -> bool:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return value > mean + times * deviation
