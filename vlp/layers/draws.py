"""Every random draw of an objective: one place, so that a law can hold the draws fixed and compare the rest."""

import torch
from torch import Tensor


def uniform(*shape: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1) of a shape whose first dimension counts rows; from the generator that the loop seeds."""
    return torch.rand(shape, device=device)


def some(mask: Tensor, probability: float) -> Tensor:
    """(B, N) bool: each present place of `mask` with `probability`, and at least one where any is present."""
    draw = uniform(*mask.shape, device=mask.device).masked_fill(~mask, 2.0)
    first = draw == draw.min(dim=1, keepdim=True).values
    return ((draw < probability) | first) & mask
