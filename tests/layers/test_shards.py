"""What a rank holds of a parameter under ZeRO-3, in each state in which DeepSpeed leaves one."""

from typing import Any

import torch
from torch import nn

from vlp.layers.shards import held, whole_shape


def cut(parameter: Any, part: torch.Tensor, whole: torch.Tensor) -> Any:
    """A parameter as DeepSpeed keeps it: its part beside it, and the whole or nothing as its data."""
    parameter.ds_tensor, parameter.ds_shape, parameter.data = part, parameter.shape, whole
    return parameter


def test_every_number_that_a_rank_holds_is_moved_once() -> None:
    whole = torch.arange(6.0).view(2, 3)
    states = {
        "not cut": (nn.Parameter(whole.clone()), [6]),
        "freed": (cut(nn.Parameter(whole.clone()), torch.arange(3.0), torch.empty(0)), [3]),
        "kept whole": (cut(nn.Parameter(whole.clone()), torch.arange(3.0), whole.clone()), [3, 6]),
        "whole by itself, on a single rank": (
            cut(nn.Parameter(whole.clone()), flat := whole.flatten(), flat.view(2, 3)),
            [6],
        ),
    }
    for name, (parameter, sizes) in states.items():
        parts = held(parameter)
        assert [part.numel() for part in parts] == sizes, name
        before = [part.detach().clone() for part in parts]
        with torch.no_grad():
            torch._foreach_add_(parts, 1.0)
        assert all(torch.equal(part, old + 1) for part, old in zip(parts, before, strict=True)), name
        assert whole_shape(parameter) == (2, 3), name
