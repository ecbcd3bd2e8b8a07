"""DeepSpeed's ZeRO: what it must be told, what it forgets, and its flat partitions as named tensors."""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.config import ConfigError
from vlp.engine.run import RunConfig
from vlp.layers.shards import held

SLOTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each number of a parameter, beside the count of its steps


def prepare(run: RunConfig, cpu: bool) -> None:
    """Raise ConfigError for what DeepSpeed cannot do here; on a CPU keep it to gloo."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError("this launch needs DeepSpeed: pip install 'vlp[deepspeed]'")
    if run.precision == "fp16":
        raise ConfigError("under DeepSpeed run.precision is 'no' or 'bf16'; its fp16 would replace the float32 weights")
    if cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed.ops

        # A shared-memory collective that DeepSpeed would compile for minutes at the first start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def settings(run: RunConfig | None, micro_batch: int, clip: float) -> dict[str, Any]:
    """What DeepSpeed wants to know of a run: it clips and casts by itself."""
    bf16 = run is not None and run.precision == "bf16"
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_clipping": clip,
        # Weights stay float32 and operations are cast, as under DDP; "bf16" would replace the weights.
        **({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}} if bf16 else {}),
    }


def gather_for_gradients(task: nn.Module) -> None:
    """Let ZeRO-3 gather a parameter before its gradient arrives, which must find it whole (0.19).

    It does so by itself where a parameter is read in its module's `forward` alone; beside it are a block's `read` and
    the word embeddings of the masked-word head.
    """
    for parameter in task.parameters():
        if parameter.requires_grad:
            parameter.register_hook(partial(_gather, parameter))


def _gather(parameter: Any, gradient: Tensor) -> None:
    if not parameter.numel():
        parameter.all_gather()


# ---------------------------------------------------------------- partitions to tensors and back


def trained(task: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and parameters that the optimizer moves."""
    return ((name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad)


def gathered(parameter: Any) -> Tensor:
    """A parameter as one tensor: a CPU copy where ZeRO-3 has cut it. Collective there."""
    if not hasattr(parameter, "ds_tensor") or parameter.numel():
        whole: Tensor = parameter
        return whole
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([parameter]):
        copied: Tensor = parameter.detach().to("cpu", copy=True)
    return copied


def _zero(prepared: Any) -> Any:
    """DeepSpeed's ZeRO optimizer inside Accelerate's wrapper; the torch optimizer is its `.optimizer`."""
    return prepared.optimizer


def _flat(inner: Any) -> list[Tensor]:
    """This rank's float32 partitions, on which the torch optimizer works."""
    third = hasattr(inner, "fp32_partitioned_groups_flat")
    flat: list[Tensor] = inner.fp32_partitioned_groups_flat if third else inner.single_partition_of_fp32_groups
    return flat


def _link(inner: Any) -> None:
    """Show ZeRO-1 and 2 where each parameter's state is. They do so once, after the step of the first group of
    parameters (0.19), when the others have none yet."""
    if hasattr(inner, "_hp_optimizer_states_linked"):
        inner._hp_optimizer_states_linked = False
        inner._lazy_init_hp_params_optimizer_state()


def zero_tensors(prepared: Any, task: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What `optimizer_tensors` gives for a torch optimizer, whole, on every rank. Collective: one tensor at a time."""
    from deepspeed.utils import safe_get_full_optimizer_state

    inner = _zero(prepared)
    _link(inner)
    state = inner.optimizer.state
    steps = next(state[flat]["step"] for flat in _flat(inner) if flat in state)
    for name, parameter in trained(task):
        yield f"step.{name}", torch.as_tensor(steps, dtype=torch.float32).cpu()
        for slot in SLOTS:
            yield f"{slot}.{name}", safe_get_full_optimizer_state(parameter, slot).to("cpu", copy=True)


def restore_zero(prepared: Any, task: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give DeepSpeed's optimizer, before its first step, what `zero_tensors` gave; every rank takes its part."""
    inner = _zero(prepared)
    step = next(value for name, value in tensors.items() if name.startswith("step."))
    for flat in _flat(inner):  # made at the first step otherwise
        slots = {slot: torch.zeros_like(flat) for slot in SLOTS}
        inner.optimizer.state[flat] = {"step": step.clone().to(flat.device), **slots}
    _link(inner)
    for name, parameter in trained(task):
        for slot in SLOTS:
            _set_slot(parameter, tensors[f"{slot}.{name}"].to(parameter.device), slot)


def _set_slot(parameter: Any, value: Tensor, slot: str) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_tensor"):
        safe_set_full_optimizer_state(parameter, value, slot)
        return
    # ZeRO-3 pads a parameter to equal parts and its own function then reads past the end of the value.
    size, flat = held(parameter)[0].numel(), value.flatten()
    padded = F.pad(flat, (0, size * dist.get_world_size() - flat.numel()))
    safe_set_local_optimizer_state(parameter, padded.narrow(0, size * dist.get_rank(), size), slot)
