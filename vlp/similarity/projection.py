"""A pooled vector to an embedding through one hidden layer, for encoders that are frozen or nearly so."""

import torch
from torch import Tensor, nn

from vlp.layers.standardize import Standardize


class Projection(nn.Module):
    """Standardised, then two linear layers with a GELU between and dropout before each: (B, D) -> (B, E).

    With `heads` above 1 as many such pairs of layers, started and dropped out differently: (B, D) -> (B, heads, E).
    """

    def __init__(self, *, width: int, hidden: int, embed_dim: int, dropout: float = 0.0, heads: int = 1) -> None:
        super().__init__()
        self.standardize = Standardize(width=width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(width, hidden),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, embed_dim),
            )
            for _ in range(heads)
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, D) -> (B, E), or (B, heads, E)."""
        vectors = self.standardize(vectors)
        out = [layers(vectors) for layers in self.layers]
        return out[0] if len(out) == 1 else torch.stack(out, dim=1)
