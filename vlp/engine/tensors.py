"""Tensors to safetensors files and back, by name. No pickle: a file from elsewhere can hold numbers, never code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another architecture."""


@dataclass
class Frozen:
    """Named tensors as they were at one moment, in CPU memory of their own."""

    own: dict[str, Tensor]
    aliases: dict[str, str]  # further names of a tensor (tied weights)


def freeze(tensors: Mapping[str, Tensor], into: Frozen | None = None) -> Frozen:
    """Copy named tensors; names that share one tensor are copied once. `into`: an older copy whose memory is reused."""
    seen: dict[tuple[Any, ...], str] = {}
    frozen = Frozen({}, {})
    for name, tensor in tensors.items():
        place = _place(tensor)
        if tensor.numel() and place in seen:
            frozen.aliases[name] = seen[place]
        else:
            seen[place] = name
            frozen.own[name] = _copied(tensor.detach(), None if into is None else into.own.get(name))
    return frozen


def _copied(tensor: Tensor, old: Tensor | None) -> Tensor:
    if old is None or old.shape != tensor.shape or old.dtype != tensor.dtype:
        old = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return old.copy_(tensor)


def write_tensors(path: Path, tensors: Mapping[str, Tensor] | Frozen) -> None:
    """Write named tensors. Names that share one tensor (tied weights) store it once; the file notes the other names."""
    frozen = tensors if isinstance(tensors, Frozen) else freeze(tensors)
    # One metadata entry at most: safetensors writes several in no fixed order, and equal states give equal bytes.
    save_file(frozen.own, path, metadata={"aliases": json.dumps(frozen.aliases)} if frozen.aliases else None)


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Tensors whose name starts with `prefix`, without it. Raises CheckpointError for a file that cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
            places = {name: name for name in file.keys()} | aliases  # noqa: SIM118 (not a dict)
            wanted = {name: place for name, place in places.items() if name.startswith(prefix)}
            found = {place: file.get_tensor(place) for place in dict.fromkeys(wanted.values())}  # tied stay tied
            return {name.removeprefix(prefix): found[place] for name, place in wanted.items()}
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); take another checkpoint") from error


def in_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors with every float in `dtype`. Tied tensors stay tied."""
    made: dict[tuple[Any, ...], Tensor] = {}
    for tensor in tensors.values():
        made[_place(tensor)] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return {name: made[_place(tensor)] for name, tensor in tensors.items()}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two names of one tensor."""
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


def check_fit(own: Mapping[str, Tensor], found: Mapping[str, Tensor], source: Path | str, remedy: str) -> None:
    """Raise CheckpointError listing missing, unexpected and mis-shaped keys, unless `found` fits `own` exactly."""
    missing = [key for key in own if key not in found]
    unexpected = [key for key in found if key not in own]
    shaped = [
        f"{key} {tuple(found[key].shape)}, here {tuple(own[key].shape)}"
        for key in own
        if key in found and own[key].shape != found[key].shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "of another shape": shaped}
    lines = [f"  {len(keys)} {title}: {_some(keys)}" for title, keys in groups.items() if keys]
    if lines:
        raise CheckpointError("\n".join([f"{source} does not fit this model:", *lines, f"  {remedy}"]))


def with_one_dimension(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`found`, where numbers that older files hold without a dimension (temperatures) get the shape (1,) of `own`."""
    return {
        name: value.reshape(1) if value.ndim == 0 and name in own and own[name].shape == (1,) else value
        for name, value in found.items()
    }


def _some(keys: list[str], count: int = 10) -> str:
    return ", ".join(keys[:count]) + (f", and {len(keys) - count} more" if len(keys) > count else "")


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state under `slot.parameter.name`, for example `exp_avg.model.text.embeddings.word.weight`.

    Learning rates and decay are not state: they follow from the config and the step.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"{slot}.{names[parameter]}": value
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor], source: Path
) -> None:
    """Give the optimizer the state that `optimizer_tensors` wrote. Raises CheckpointError for other parameters."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        slot, _, name = key.partition(".")
        state.setdefault(name, {})[slot] = value.clone()
    strangers = sorted(set(state) - set(order))
    if strangers:
        raise CheckpointError(
            f"{source} holds optimizer state of {len(strangers)} parameters that are not trained here: "
            f"{_some(strangers)}; resume with the config of the run, or start a new run with init={source.parent}"
        )
    groups = optimizer.state_dict()["param_groups"]
    indexed = {i: state[name] for i, name in enumerate(order) if name in state}
    optimizer.load_state_dict({"state": indexed, "param_groups": groups})
