"""Start Accelerate, and make sure that it did what was asked.

Some launches fall back in silence: `accelerate launch --cpu --num_processes 2` starts one process, `torchrun` with a
plain `Accelerator()` on a CPU machine starts independent ones, a process group without a known distributed type leaves
the model unwrapped. Each would train without gradient exchange and without an error, so the checks here raise.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, broadcast_object_list
from torch import nn

from vlp.engine.run import RunConfig

WRAPPERS = {
    DistributedType.MULTI_CPU: ("DistributedDataParallel",),
    DistributedType.MULTI_GPU: ("DistributedDataParallel",),
    DistributedType.DEEPSPEED: ("DeepSpeedEngine",),
    DistributedType.FSDP: ("FullyShardedDataParallel", "FSDP"),
}


class LaunchError(ValueError):
    """The launcher started something else than it was asked for."""


def start(run: RunConfig) -> Accelerator:
    """An Accelerator on the GPU, or on the CPU where there is none. Raises LaunchError for a silent fallback."""
    run.check()
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", run.precision)
    if asked not in (run.precision, "no"):
        text = f"the launcher's mixed precision {asked!r} is ignored; set run.precision (now {run.precision!r})"
        warnings.warn(text, stacklevel=2)
    # Buffers (feature queues, counters) change in after_step from gathered values, equally on every rank:
    # broadcasting them in every forward would only cost time.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=run.precision,
        gradient_accumulation_steps=run.accumulate,
        kwargs_handlers=[ddp],
    )
    check_world(accelerator, run)
    return accelerator


def check_world(accelerator: Accelerator, run: RunConfig) -> None:
    """Raise LaunchError when the number of processes or of micro steps is not the one asked for."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world:
        raise LaunchError(
            f"the launcher started {world} processes but Accelerate sees {accelerator.num_processes}; they would train "
            "apart. Launch with `accelerate launch --multi_gpu --num_processes N` or `torchrun --nproc_per_node N`"
        )
    if accelerator.gradient_accumulation_steps != run.accumulate:
        raise LaunchError(
            f"the launcher's gradient_accumulation_steps {accelerator.gradient_accumulation_steps} overrides "
            f"run.accumulate={run.accumulate}; remove it from the launcher's settings"
        )


def same_everywhere(accelerator: Accelerator, find: Callable[[], Any]) -> Any:
    """What `find` gives on rank 0, on every rank; its error, too: ranks may see a disk differently."""
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            found[0] = find()
        except ValueError as error:
            found[1] = error
    broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


def wrap(accelerator: Accelerator, task: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """Prepare both for the launch. Raises LaunchError when the task did not get the wrapper of its distributed type."""
    wrapped, prepared = accelerator.prepare(task, optimizer)
    check_wrapper(accelerator.distributed_type, accelerator.num_processes, wrapped, task)
    return wrapped, prepared


def check_wrapper(kind: DistributedType, processes: int, wrapped: Any, task: nn.Module) -> None:
    """Raise LaunchError unless `wrapped` is what a launch of this kind makes of `task`."""
    if kind is DistributedType.NO:
        fits = wrapped is task and processes == 1
    else:
        fits = type(wrapped).__name__.startswith(WRAPPERS.get(kind, ()))
    if not fits:
        raise LaunchError(
            f"a launch of type {kind.value} with {processes} process(es) wrapped the task as {type(wrapped).__name__}: "
            f"gradients would not be exchanged as asked; expected {' or '.join(WRAPPERS.get(kind, ('one process',)))}"
        )
