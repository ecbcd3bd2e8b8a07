"""Stream to vector: the first token, the last, the mean of the tokens present, or what a learned query reads."""

from typing import cast

import torch
from torch import Tensor, nn

from vlp.layers.attention import CrossAttention
from vlp.layers.blocks import FeedForward
from vlp.layers.packing import Packing
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
    """First token and mean over the others side by side, (B, N, D) -> (B, 2 D), as DINOv2's linear probes read it.

    `width` reads the last so many dimensions alone: of an encoder that shows several levels, the last ones.
    """

    def __init__(self, *, width: int | None = None) -> None:
        super().__init__()
        self.width = width

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        tokens = stream.tokens if self.width is None else stream.tokens[..., -self.width :]
        return torch.cat([tokens[:, 0], MeanPool()(Stream(tokens[:, 1:], stream.mask[:, 1:]))], dim=1)


class LastPool(nn.Module):
    """The last token present, (B, N, D) -> (B, D): what a causal text encoder has read all before (CLIP's EOS)."""

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        last = stream.mask.shape[1] - 1 - stream.mask.flip(1).long().argmax(1)
        return stream.tokens[torch.arange(len(last), device=last.device), last]


class AttentionPool(nn.Module):
    """A learned query that reads the tokens present, then a feed-forward (SigLIP's head), (B, N, D) -> (B, D)."""

    def __init__(self, *, width: int, heads: int, hidden: int | None = None) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.cross = CrossAttention(width=width, heads=heads, context_width=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.feed_forward = FeedForward(width=width, hidden=hidden or 4 * width)

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        rows = Packing.of(stream.mask[:, :1] | True)
        context = self.cross.keys_values(stream.tokens)
        read: Tensor = self.cross(self.probe.expand(len(stream.mask), -1), rows, context, stream.mask[:, None, None])
        return read + cast(Tensor, self.feed_forward(self.norm(read)))


class MaxPool(nn.Module):
    """Largest value of each dimension over the tokens present, (B, N, D) -> (B, D)."""

    def forward(self, stream: Stream) -> Tensor:
        """Stream to vector."""
        return stream.tokens.masked_fill(~stream.mask[..., None], float("-inf")).amax(1)
