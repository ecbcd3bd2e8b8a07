"""A pooled vector to an embedding through one hidden layer, for encoders that are frozen or nearly so."""

from typing import cast

from torch import Tensor, nn

from vlp.layers.standardize import Standardize


class Projection(nn.Module):
    """Standardised, then two linear layers with a GELU between and dropout before each: (B, D) -> (B, E)."""

    def __init__(self, *, width: int, hidden: int, embed_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.standardize = Standardize(width=width)
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, embed_dim),
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, D) -> (B, E)."""
        return cast(Tensor, self.layers(self.standardize(vectors)))
