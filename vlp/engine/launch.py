"""Start Accelerate, and make sure that it did what was asked.

Some launches fall back in silence: `accelerate launch --cpu --num_processes 2` starts one process, `torchrun` with a
plain `Accelerator()` on a CPU machine starts independent ones, a process group without a known distributed type leaves
the model unwrapped. Each would train without gradient exchange and without an error, so the checks here raise.
"""

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.utils import DistributedType, broadcast_object_list
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method

from vlp.engine import zero
from vlp.engine.run import RunConfig
from vlp.engine.switches import blocks

ENTRIES = ("read", "keys_values", "affinities")  # a block's ways in beside `forward`: FSDP2 must gather there, too
# How long a collective may take: an evaluation, for which the others wait, may be long. A `Watch` ends what hangs.
PATIENCE = timedelta(hours=12)

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
    cpu, sharded = not torch.cuda.is_available(), asked_sharding()
    # A backend by name, because with cpu=True Accelerate would forget about the sharding, in silence.
    group = InitProcessGroupKwargs(backend="gloo" if cpu and sharded else None, timeout=PATIENCE)
    handlers: list[Any] = [DistributedDataParallelKwargs(broadcast_buffers=False), group]
    if sharded == "DEEPSPEED":
        zero.prepare(run, cpu)
    accelerator = Accelerator(
        cpu=cpu and not sharded,
        mixed_precision="no" if sharded == "DEEPSPEED" else run.precision,
        gradient_accumulation_steps=run.accumulate,
        kwargs_handlers=handlers,
    )
    check_world(accelerator, run)
    check_sharding(accelerator, sharded)
    return accelerator


def start_evaluation() -> tuple[torch.device, bool]:
    """Join the processes of the launcher, if there is one: this one's device, and whether it is the main one.

    Raises LaunchError where the processes do not see each other.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu"), True
    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != world:
        raise LaunchError(
            f"the launcher started {world} processes but Accelerate sees {state.num_processes}; each would evaluate "
            "everything. Launch with `accelerate launch --multi_gpu --num_processes N` or `torchrun --nproc_per_node N`"
        )
    return state.device, state.is_main_process


def asked_sharding() -> str:
    """What the launcher asks for in the environment: "DEEPSPEED", "FSDP", or nothing."""
    for name in ("DEEPSPEED", "FSDP"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            return name
    return ""


def check_sharding(accelerator: Accelerator, asked: str) -> None:
    """Raise LaunchError when the launch asked for DeepSpeed or FSDP and Accelerate does something else."""
    if asked and accelerator.distributed_type.value != asked:
        raise LaunchError(
            f"the launch asks for {asked} and Accelerate runs {accelerator.distributed_type.value}; "
            "docs/distributed.md says what runs where (FSDP needs GPUs)"
        )


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


def wrap(
    accelerator: Accelerator,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    run: RunConfig | None = None,
    micro_batch: int = 1,
    clip: float = 0.0,
) -> tuple[Any, Any]:
    """Prepare both for the launch. Raises LaunchError when the task did not get the wrapper of its distributed type.

    The keywords are DeepSpeed's: it clips by itself, wants to know the pairs of a micro step, and casts by itself.
    """
    check_parameters(accelerator, task)
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        accelerator.state.deepspeed_plugin.deepspeed_config |= zero.settings(run, micro_batch, clip)
    if accelerator.distributed_type is DistributedType.FSDP:  # cut block by block, whatever their classes are
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted({type(b).__name__ for b in blocks(task)})
    wrapped, prepared = accelerator.prepare(task, optimizer)
    check_wrapper(accelerator.distributed_type, accelerator.num_processes, wrapped, task)
    if accelerator.distributed_type is DistributedType.FSDP:
        for block in blocks(task):
            for entry in (name for name in ENTRIES if hasattr(block, name)):
                register_fsdp_forward_method(block, entry)
    elif cuts_weights(accelerator):
        zero.gather_for_gradients(task)
    return wrapped, prepared


def cuts_weights(accelerator: Accelerator) -> bool:
    """Whether no rank has the whole model: under FSDP2 and ZeRO-3. Then all ranks compute together, or none."""
    kind = accelerator.distributed_type
    zero = kind is DistributedType.DEEPSPEED and accelerator.state.deepspeed_plugin.zero_stage == 3
    return zero or kind is DistributedType.FSDP


def check_parameters(accelerator: Accelerator, task: nn.Module) -> None:
    """Raise LaunchError for parameters without dimensions, which neither DeepSpeed nor FSDP2 can cut."""
    scalars = [name for name, parameter in task.named_parameters() if parameter.ndim == 0]
    if scalars and accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        raise LaunchError(
            f"{accelerator.distributed_type.value} cuts no parameters without dimensions ({', '.join(scalars)}); "
            "give them the shape (1,), or use DDP"
        )


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
