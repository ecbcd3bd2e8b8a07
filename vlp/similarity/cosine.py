"""Cosine similarity of two projected vectors with a learned temperature: what ITC trains and an index searches."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.shards import held
from vlp.pooling.tokens import ClsPool
from vlp.similarity.projection import Projection
from vlp.types import Stream


class CosineSimilarity(nn.Module):
    """Scores (B, C) = cosine * exp(logit_scale). One that splits into two vectors, so it can be indexed.

    `logit_scale` is ln(1 / temperature), CLIP's parametrisation; the temperature stays within [0.01, 0.5]
    (`clamp`, called after each step), or with `learned=False` where it starts. `hidden` puts a hidden layer of that
    width, over standardised vectors and with `dropout`, in front of each embedding (`Projection`): for encoders that
    stay as they were read. `heads` is the number of such projections, an ensemble in one embedding of
    heads * embed_dim: its cosine is the mean of theirs. ITC trains each by a loss of its own (`split_heads`).
    """

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        embed_dim: int = 256,
        temperature: float = 0.07,
        learned: bool = True,
        image_pool: nn.Module | None = None,
        text_pool: nn.Module | None = None,
        hidden: int | None = None,
        dropout: float = 0.0,
        heads: int = 1,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.image_pool = image_pool or ClsPool()
        self.text_pool = text_pool or ClsPool()
        self.image_projection = _projection(image_width, hidden, embed_dim, dropout, heads)
        self.text_projection = _projection(text_width, hidden, embed_dim, dropout, heads)
        start = torch.tensor([math.log(1 / temperature)])  # (1,), so that it can be cut
        self.logit_scale = nn.Parameter(start, requires_grad=learned)
        self.embed_dim = heads * embed_dim

    def embed_image(self, image: Stream) -> Tensor:
        """(B, N, D) -> (B, E), unit rows, fp32."""
        return _unit(self.image_projection(self.image_pool(image)))

    def embed_text(self, text: Stream) -> Tensor:
        """(C, L, D) -> (C, E), unit rows, fp32."""
        return _unit(self.text_projection(self.text_pool(text)))

    def scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, C) logits of every pair."""
        return self.scale() * self.embed_image(image) @ self.embed_text(text).T

    def pairs(self, image: Stream, text: Stream) -> Tensor:
        """(B,) logits of aligned pairs."""
        return self.scale() * (self.embed_image(image) * self.embed_text(text)).sum(-1)

    def scale(self) -> Tensor:
        """1 / temperature."""
        return self.logit_scale[0].exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the temperature within [0.01, 0.5]."""
        for part in held(self.logit_scale):
            part.clamp_(math.log(2.0), math.log(100.0))

    def after_step(self) -> None:
        """The clamp."""
        self.clamp()


def split_heads(embedding: Tensor, heads: int) -> list[Tensor]:
    """(B, E) embeddings of `CosineSimilarity(heads=...)` -> the unit rows (B, E / heads) of each head."""
    if heads == 1:
        return [embedding]
    return [part * math.sqrt(heads) for part in embedding.chunk(heads, dim=1)]


def _projection(width: int, hidden: int | None, embed_dim: int, dropout: float, heads: int) -> nn.Module:
    if hidden is not None:
        return Projection(width=width, hidden=hidden, embed_dim=embed_dim, dropout=dropout, heads=heads)
    if heads > 1:
        raise ValueError(f"heads={heads} projections without a hidden layer would learn the same: give hidden=...")
    return nn.Linear(width, embed_dim)


def _unit(vectors: Tensor) -> Tensor:
    """Rows of length 1, in fp32 or better; of (B, heads, E) each head's rows are, before they are joined."""
    unit = F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
    return unit if unit.ndim == 2 else unit.flatten(1) / math.sqrt(unit.shape[1])
