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
        compile_blocks(task)


def blocks(task: nn.Module) -> list[nn.Module]:
    """The blocks of every stack of equal blocks: what is compiled, and what FSDP cuts by."""
    stacks = [module for module in task.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    return [block for stack in stacks for block in stack if len({type(b) for b in stack}) == 1]


def compile_blocks(task: nn.Module) -> None:
    """torch.compile each block of every stack, in place: parameters keep their names, and equal blocks share one graph.

    Blocks and not the whole task, because padding and negatives make the control flow between them depend on the
    batch; within a block only sizes differ, which `dynamic` allows for.
    """
    found = blocks(task)
    for block in found:
        block.compile(dynamic=True)
    if not found:
        warnings.warn("run.compile is on, but this task has no stack of equal blocks to compile", stacklevel=3)
