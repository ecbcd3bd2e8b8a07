"""Stream to vector: the first token, or the mean of the tokens present."""

import torch
from torch import Tensor, nn

from vlp.types import Stream


class ClsPool(nn.Module):
    """The first token, (B, N, D) -> (B, D)."""

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        return stream.tokens[:, 0]


class MeanPool(nn.Module):
    """Mean over the tokens present, (B, N, D) -> (B, D)."""

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        weights = stream.mask.to(stream.tokens.dtype)[..., None]
        return (stream.tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


class ClsMeanPool(nn.Module):
    """First token and mean over the others side by side, (B, N, D) -> (B, 2 D), as DINOv2's linear probes read it."""

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        others = Stream(stream.tokens[:, 1:], stream.mask[:, 1:])
        return torch.cat([stream.tokens[:, 0], MeanPool()(others)], dim=1)
