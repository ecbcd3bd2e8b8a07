"""A fused pair as one vector: its [CLS], or the mean of its words.

The mean gives each word a vote on whether the picture fits it, and starts from tokens that masked words have taught;
no objective but matching teaches [CLS] anything (measured in docs/decisions.md, 2026-11-24).
"""

from typing import Literal

import torch
from torch import Tensor

Summary = Literal["cls", "mean"]


def places(mask: Tensor, summary: Summary) -> Tensor:
    """Which text positions (R, L) bool a summary reads, so that a last layer need run nowhere else."""
    if summary == "mean":
        return mask
    first = torch.zeros_like(mask)
    first[:, 0] = True
    return first


def summarized(tokens: Tensor, read: Tensor) -> Tensor:
    """(M, D) tokens at the positions `read` (R, L) bool, in row order -> their mean in each row, (R, D)."""
    rows = read.nonzero()[:, 0]
    total = tokens.new_zeros(len(read), tokens.shape[-1]).index_add(0, rows, tokens)
    return total / read.sum(1, keepdim=True).clamp(min=1).to(tokens.dtype)
