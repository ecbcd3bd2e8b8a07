"""The parts of parameters that a rank holds, for updates that work number by number on equally cut parameters."""

from typing import Any

import torch
from torch import Tensor


def held(parameter: Any) -> list[Tensor]:
    """The tensors in which this rank keeps a parameter: itself, its FSDP2 shard, or its ZeRO-3 part.

    Where ZeRO-3 also keeps the whole of a small one, both. Changing all of them in place changes the parameter, if
    every rank does the same to its own.
    """
    if hasattr(parameter, "to_local"):
        return [parameter.to_local()]
    if not hasattr(parameter, "ds_tensor"):
        return [parameter]
    part: Tensor = parameter.ds_tensor
    apart = parameter.numel() > 0 and parameter.data_ptr() != part.data_ptr()  # a single rank's part is the whole
    return [part, parameter] if apart else [part]


def whole_shape(parameter: Any) -> torch.Size:
    """A parameter's shape, also while ZeRO-3 leaves nothing but a part of it."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape
