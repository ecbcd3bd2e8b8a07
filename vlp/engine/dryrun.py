"""A run's first step without the run: parameters per part, FLOPs, one forward and backward, forgotten parameters."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vlp.types import Batch


@dataclass
class PartCount:
    """Parameters of one part, each counted at the first part that holds it."""

    name: str
    trainable: int
    frozen: int


@dataclass
class Trial:
    """One forward and backward."""

    report: dict[str, float]
    flops_per_sample: float  # forward and backward; matrix products and convolutions, a multiply-add is 2
    seconds: float
    without_gradient: list[str]  # trainable parameters that got none


def count_parameters(parts: Mapping[str, nn.Module]) -> list[PartCount]:
    """Trainable and frozen parameters of each part; shared ones are counted once."""
    seen: set[int] = set()
    counts = []
    for name, part in parts.items():
        own = [p for p in part.parameters() if id(p) not in seen]
        seen.update(id(p) for p in own)
        trainable = sum(p.numel() for p in own if p.requires_grad)
        counts.append(PartCount(name, trainable, sum(p.numel() for p in own) - trainable))
    return counts


def parameter_table(counts: list[PartCount]) -> str:
    """The counts as text, with a total."""
    total = PartCount("total", sum(c.trainable for c in counts), sum(c.frozen for c in counts))
    width = max(len(c.name) for c in [*counts, total])
    rows = [f"{'part':<{width}}  {'trainable':>13}  {'frozen':>13}"]
    rows += [f"{c.name:<{width}}  {c.trainable:>13,}  {c.frozen:>13,}" for c in [*counts, total]]
    return "\n".join(rows)


def try_step(task: Any, module: nn.Module, batch: Batch, accelerator: Any) -> Trial:
    """Forward and backward of the wrapped `task` on one batch; `module` is the task inside. Weights do not change."""
    task.train()
    start = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        loss = task(batch)
        accelerator.backward(loss.value)
    seconds = time.perf_counter() - start
    forgotten = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    module.zero_grad(set_to_none=True)
    report = {"loss": float(loss.value.detach())} | {name: float(value) for name, value in loss.report.items()}
    return Trial(report, counter.get_total_flops() / len(batch), seconds, forgotten)


def trial_text(trial: Trial, samples: int) -> str:
    """A trial for the screen."""
    report = ", ".join(f"{name} {value:.4g}" for name, value in trial.report.items())
    lines = [
        f"FLOPs per sample (forward + backward): {trial.flops_per_sample:.3g}",
        f"forward + backward on a mock batch of {samples}: {trial.seconds:.2f} s; {report}",
    ]
    if trial.without_gradient:
        lines.append(f"{len(trial.without_gradient)} trainable parameters got NO gradient:")
        lines += [f"  {name}" for name in trial.without_gradient]
    else:
        lines.append("every trainable parameter got a gradient")
    return "\n".join(lines)
