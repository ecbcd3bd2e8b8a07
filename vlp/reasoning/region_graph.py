"""Graph convolutions over the regions of a picture, every region a neighbour of every other (VSRN, Li 2019)."""

from typing import cast

import torch
from torch import Tensor, nn

from vlp.types import Stream


class RegionGraph(nn.Module):
    """Stream (B, N, D) -> Stream (B, N, D), `layers` times V + W (R V W_g) with R = theta(V) phi(V)^T / N.

    Section 3.1, equations 1-4; R is divided by the number of regions present, as in the released code. There W ends in
    a batch norm whose gain starts at zero, so that the graph begins as the identity; here W ends in a gain alone: no
    loss may depend on the other rows of a batch.
    """

    def __init__(self, *, width: int, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_GraphLayer(width) for _ in range(layers))

    def forward(self, stream: Stream) -> Stream:
        """Stream to stream."""
        tokens = stream.tokens.masked_fill(~stream.mask[..., None], 0.0)
        for layer in self.layers:
            tokens = cast(Tensor, layer(tokens, stream.mask))
        return Stream(tokens, stream.mask)


class _GraphLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, width)
        self.theta = nn.Linear(width, width)
        self.phi = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        count = mask.sum(1).clamp(min=1)[:, None, None]
        here = mask[..., None].to(tokens.dtype)
        edges = self.theta(tokens) @ (self.phi(tokens) * here).transpose(1, 2) / count
        read: Tensor = self.out(edges @ self.value(tokens)) * self.gain
        return (tokens + read) * here
