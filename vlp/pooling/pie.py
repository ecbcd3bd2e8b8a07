"""Several embeddings of one item: polysemous pooling (PVSE, Song 2019, section 3.1) and Gaussians (PCME, Chun 2021)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.pooling.tokens import MeanPool
from vlp.types import Stream


class PIE(nn.Module):
    """Stream (B, N, D) -> Stream (B, K, E) of unit tokens: LayerNorm(global + residual_k).

    `residuals`: K attention maps softmax(W2 tanh(W1 x)) over the tokens present, each read through sigmoid(fc).
    The global vector is a linear layer over the mean of the tokens.
    """

    def __init__(self, *, width: int, embed_dim: int, count: int = 2, hidden: int | None = None) -> None:
        super().__init__()
        self.whole = nn.Linear(width, embed_dim)
        self.look = nn.Linear(width, hidden or width // 2, bias=False)
        self.heads = nn.Linear(hidden or width // 2, count, bias=False)
        self.residual = nn.Linear(width, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)

    def attended(self, stream: Stream) -> Tensor:
        """(B, K, D): what each head reads."""
        scores = self.heads(torch.tanh(self.look(stream.tokens))).masked_fill(~stream.mask[..., None], float("-inf"))
        present = stream.tokens.masked_fill(~stream.mask[..., None], 0.0)
        return torch.einsum("bnk,bnd->bkd", F.softmax(scores, dim=1), present)

    def residuals(self, stream: Stream) -> Tensor:
        """(B, K, E), what the diversity loss looks at."""
        return torch.sigmoid(self.residual(self.attended(stream)))

    def forward(self, stream: Stream) -> Stream:
        """Stream to a set of vectors."""
        whole = self.whole(MeanPool()(stream))[:, None]
        return _set(F.normalize(cast(Tensor, self.norm(whole + self.residuals(stream))), dim=-1))


class GaussianPool(nn.Module):
    """Stream (B, N, D) -> Stream (B, 2, E): a unit mean and a log deviation for each dimension (PCME, section 3.2).

    The mean is a polysemous embedding of one head. The deviation, a linear layer over the mean of the tokens plus one
    over what a head of its own reads, has neither norm nor sigmoid, which the paper found to cost its spread. It begins
    near `initial`; where the similarity takes it for a log variance, twice as low begins at the same spread.
    """

    def __init__(self, *, width: int, embed_dim: int, initial: float = -4.0) -> None:
        super().__init__()
        self.mean = PIE(width=width, embed_dim=embed_dim, count=1)
        self.spread = PIE(width=width, embed_dim=embed_dim, count=1)
        del self.spread.norm
        nn.init.constant_(self.spread.whole.bias, initial)

    def forward(self, stream: Stream) -> Stream:
        """Stream to mean and log deviation."""
        spread = self.spread.whole(MeanPool()(stream)) + self.spread.residual(self.spread.attended(stream))[:, 0]
        return _set(torch.stack([self.mean(stream).tokens[:, 0], spread], dim=1))


def _set(vectors: Tensor) -> Stream:
    """(B, K, E) as a stream, every token present."""
    return Stream(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device))
