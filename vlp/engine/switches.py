"""Switches that the engine throws on whatever parts it is given: gradient checkpointing and torch.compile."""

import warnings
from typing import Any

from torch import nn

from vlp.engine.run import RunConfig


def apply_switches(task: nn.Module, run: RunConfig) -> None:
    """Throw the run's switches on every part that has them; warns where checkpointing finds none."""
    parts: list[Any] = [module for module in task.modules() if hasattr(module, "set_checkpointing")]
    for part in parts:
        part.set_checkpointing(run.checkpointing)
    if run.checkpointing and not parts:
        warnings.warn("run.checkpointing is on, but no part of this task can recompute its activations", stacklevel=2)
    if run.compile:
        task.compile()  # in place: the names of the parameters stay as they are
