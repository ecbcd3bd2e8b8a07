"""Weights and optimizer state whole on rank 0, however the launch cuts them: DDP, ZeRO-1, ZeRO-2 or FSDP2.

Every launch writes and reads the same checkpoint, so a run may go on under another one, and nothing has to be
consolidated afterwards. What it costs: rank 0 holds the whole state in CPU memory, 12 bytes a parameter in float32.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vlp.engine.tensors import check_fit, load_optimizer, optimizer_tensors

SLOTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each number of a parameter, beside the count of its steps


def whole_state(accelerator: Accelerator, task: nn.Module) -> dict[str, Tensor]:
    """The task's state by name. Collective where it is cut; then other ranks than 0 get nothing.

    Traffic per rank: each cut tensor is gathered once, one at a time.
    """
    kind = accelerator.distributed_type
    if kind not in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        return task.state_dict()
    buffers = {name for name, _ in task.named_buffers()}
    state = {name: tensor for name, tensor in task.state_dict(keep_vars=True).items()}
    whole = {name: (tensor if name in buffers else whole_tensor(tensor)) for name, tensor in state.items()}
    return {name: tensor.detach() for name, tensor in whole.items()} if accelerator.is_main_process else {}


def whole_tensor(tensor: Tensor) -> Tensor:
    """A parameter as one tensor on every rank, a CPU copy where it was cut. Collective."""
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor()
        return full.detach().cpu()
    return tensor


def whole_optimizer(
    accelerator: Accelerator, optimizer: torch.optim.Optimizer, prepared: Any, task: nn.Module
) -> dict[str, Tensor]:
    """What `optimizer_tensors` gives, whole. Collective where it is cut; then other ranks than 0 get nothing."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        tensors = _zero_tensors(prepared, task)
    else:
        tensors = optimizer_tensors(optimizer, task)
        if accelerator.distributed_type is DistributedType.FSDP:
            tensors = {name: whole_tensor(tensor) for name, tensor in tensors.items()}
    return tensors if accelerator.is_main_process or not _is_cut(accelerator) else {}


def restore_optimizer(
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    prepared: Any,
    task: nn.Module,
    tensors: Mapping[str, Tensor],
    source: Path,
) -> None:
    """Give the prepared optimizer the state of a checkpoint, each rank its part. Raises CheckpointError."""
    if accelerator.distributed_type is DistributedType.DEEPSPEED:
        _restore_zero(prepared, task, tensors, source)
        return
    if accelerator.distributed_type is DistributedType.FSDP:
        parameters: dict[str, Any] = dict(task.named_parameters())
        tensors = {name: _cut_like(parameters[name.partition(".")[2]], t) for name, t in tensors.items()}
    load_optimizer(optimizer, task, tensors, source)


def _is_cut(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)


def _cut_like(parameter: Any, value: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value  # the count of steps
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


# ---------------------------------------------------------------- DeepSpeed's flat partitions


def _trained(task: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad)


def _zero(prepared: Any) -> Any:
    """DeepSpeed's ZeRO optimizer inside Accelerate's wrapper; the torch optimizer is its `.optimizer`."""
    return prepared.optimizer


def _flat(prepared: Any) -> list[Tensor]:
    """This rank's float32 partitions, on which the torch optimizer works."""
    flat: list[Tensor] = _zero(prepared).single_partition_of_fp32_groups
    return flat


def _link(inner: Any) -> None:
    """Show DeepSpeed where each parameter's state is. It does so once, after the step of the first group of
    parameters (0.19), when the others have none yet."""
    inner._hp_optimizer_states_linked = False
    inner._lazy_init_hp_params_optimizer_state()


def _zero_tensors(prepared: Any, task: nn.Module) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_optimizer_state

    _link(_zero(prepared))
    state = _zero(prepared).optimizer.state
    steps = next(state[flat]["step"] for flat in _flat(prepared) if flat in state)
    tensors = {f"step.{name}": torch.as_tensor(steps, dtype=torch.float32).cpu() for name, _ in _trained(task)}
    for name, parameter in _trained(task):
        for slot in SLOTS:
            value = safe_get_full_optimizer_state(parameter, slot)
            tensors[f"{slot}.{name}"] = value.to("cpu", copy=True)
    return tensors


def _restore_zero(prepared: Any, task: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    wanted = {f"{slot}.{name}": torch.empty(p.shape, device="meta") for name, p in _trained(task) for slot in SLOTS}
    check_fit(
        wanted, {name: t for name, t in tensors.items() if not name.startswith("step.")}, source, "take its config"
    )
    inner = _zero(prepared)
    step = next(value for name, value in tensors.items() if name.startswith("step."))
    for flat in _flat(prepared):  # made at the first step otherwise
        slots = {slot: torch.zeros_like(flat) for slot in SLOTS}
        inner.optimizer.state[flat] = {"step": step.clone().to(flat.device), **slots}
    _link(inner)
    for name, parameter in _trained(task):
        for slot in SLOTS:
            safe_set_full_optimizer_state(parameter, tensors[f"{slot}.{name}"].to(parameter.device), slot)
