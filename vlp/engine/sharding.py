"""Weights and optimizer state whole on rank 0, however the launch cuts them: DDP, ZeRO-1, 2 or 3, FSDP2.

Every launch writes and reads the same checkpoint, so a run may go on under another one, and nothing has to be
consolidated afterwards. What it costs: rank 0 holds the whole state in CPU memory, 12 bytes a parameter in float32.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vlp.engine.tensors import check_fit, load_optimizer, optimizer_tensors, with_one_dimension
from vlp.engine.zero import SLOTS, gathered, restore_zero, trained, zero_tensors
from vlp.layers.shards import whole_shape


def whole_state(accelerator: Accelerator, task: nn.Module) -> dict[str, Tensor]:
    """The task's state by name. Collective where it is cut; then other ranks than 0 get nothing.

    Traffic per rank: each cut tensor is gathered once, one at a time.
    """
    kind = accelerator.distributed_type
    if kind not in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        return task.state_dict()
    buffers = {name for name, _ in task.named_buffers()}
    state = task.state_dict(keep_vars=True)
    pairs = ((name, tensor if name in buffers else whole_tensor(tensor)) for name, tensor in state.items())
    return _kept(accelerator, pairs)


def _kept(accelerator: Accelerator, pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """What rank 0 keeps of tensors that all ranks gather, one after the other."""
    return {name: tensor.detach() for name, tensor in pairs if accelerator.is_main_process}


def whole_tensor(tensor: Tensor) -> Tensor:
    """A parameter as one tensor on every rank, a CPU copy where it was cut. Collective."""
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor()
        return full.detach().cpu()
    return gathered(tensor)


def whole_optimizer(
    accelerator: Accelerator, optimizer: torch.optim.Optimizer, prepared: Any, task: nn.Module
) -> dict[str, Tensor]:
    """What `optimizer_tensors` gives, whole. Collective where it is cut; then other ranks than 0 get nothing."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        return _kept(accelerator, zero_tensors(prepared, task))
    tensors = optimizer_tensors(optimizer, task)
    if accelerator.distributed_type is not DistributedType.FSDP:
        return tensors
    return _kept(accelerator, ((name, whole_tensor(tensor)) for name, tensor in tensors.items()))


def restore_optimizer(
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    prepared: Any,
    task: nn.Module,
    tensors: Mapping[str, Tensor],
    source: Path,
) -> None:
    """Give the prepared optimizer the state of a checkpoint, each rank its part. Raises CheckpointError."""
    wanted = {
        f"{slot}.{name}": torch.empty(whole_shape(p), device="meta") for name, p in trained(task) for slot in SLOTS
    }
    tensors = with_one_dimension(wanted, tensors)
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        moments = {name: value for name, value in tensors.items() if not name.startswith("step.")}
        check_fit(wanted, moments, source, "take its config")
        restore_zero(prepared, task, tensors)
        return
    if accelerator.distributed_type is DistributedType.FSDP:
        parameters: dict[str, Any] = dict(task.named_parameters())
        tensors = {name: _cut_like(parameters[name.partition(".")[2]], t) for name, t in tensors.items()}
    load_optimizer(optimizer, task, tensors, source)


def _cut_like(parameter: Any, value: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value  # the count of steps
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
