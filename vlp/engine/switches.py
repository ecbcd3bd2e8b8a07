"""Switches that the engine throws on whatever parts it is given: gradient checkpointing and torch.compile."""

import warnings
from typing import Any

from torch import nn

from vlp.config import ConfigError
from vlp.engine.run import RunConfig


def apply_switches(task: nn.Module, run: RunConfig) -> None:
    """Throw the run's switches on every part that has them, or on the parts that the run names.

    Warns where checkpointing finds none. Raises ConfigError for the name of a part that the model has not.
    """
    parts = [part for chosen in _chosen(task, run.checkpointing_parts, "checkpointing") for part in _switched(chosen)]
    for part in _switched(task):
        part.set_checkpointing(run.checkpointing and any(part is chosen for chosen in parts))
    if run.checkpointing and not parts:
        warnings.warn("run.checkpointing is on, but no part of this task can recompute its activations", stacklevel=2)
    if run.compile:
        compile_blocks(_chosen(task, run.compile_parts, "compile"))


def _switched(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if hasattr(part, "set_checkpointing")]


def _chosen(task: nn.Module, names: list[str], switch: str) -> list[nn.Module]:
    """The whole task, or the parts of its model that are named."""
    parts = dict(task.get_submodule("model").named_children()) if names else {}
    for name in names:
        if name not in parts:
            raise ConfigError(f"run.{switch}_parts names {name!r}, and this model has {', '.join(parts)}")
    return [parts[name] for name in names] or [task]


def blocks(task: nn.Module) -> list[nn.Module]:
    """The blocks of every stack of equal blocks: what is compiled, and what FSDP cuts by."""
    stacks = [module for module in task.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    return [block for stack in stacks for block in stack if len({type(b) for b in stack}) == 1]


def compile_blocks(parts: list[nn.Module]) -> None:
    """torch.compile each block of every stack, in place: parameters keep their names, and equal blocks share one graph.

    Blocks and not the whole task, because padding and negatives make the control flow between them depend on the
    batch; within a block only sizes differ, which `dynamic` allows for.
    """
    found = [block for part in parts for block in blocks(part)]
    for block in found:
        block.compile(dynamic=True)
    if not found:
        warnings.warn("run.compile is on, but this task has no stack of equal blocks to compile", stacklevel=3)
