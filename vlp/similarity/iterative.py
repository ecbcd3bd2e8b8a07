"""Iterative matching with recurrent attention memory (IMRAM, Chen 2020, sections 3.2-3.3)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.similarity.stacked_attention import Direction, attention, pooled
from vlp.types import Stream


class Memory(nn.Module):
    """Distillation unit, equations 7-9: g q + (1 - g) o with g = sigmoid(W_g [q; c]), o = tanh(W_o [q; c]).

    The weights over [q; c] are kept as two halves, so that the first step projects each query once for all items.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 2 * width)
        self.context = nn.Linear(width, 2 * width, bias=False)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """(A, 1 or B, Q, E), (A, B, Q, E) -> (A, B, Q, E)."""
        gate, new = (self.query(query) + self.context(context)).chunk(2, dim=-1)
        gate = torch.sigmoid(gate)
        return gate * query + (1 - gate) * torch.tanh(new)


class IterativeMatching(nn.Module):
    """The scorer of IMRAM: K times the fragments read the other side, and are changed by what they read; the score is
    the sum over the steps of the mean cosine of the *original* fragments with what was read.

    `steps` K. Memory of a pair: some E numbers for every fragment that asks.
    """

    def __init__(self, *, width: int, steps: int = 3, sharpness: float = 9.0, direction: Direction = "both") -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps}: without a step nothing is compared")
        self.width = width
        self.steps = steps
        self.sharpness = sharpness
        self.direction = direction
        asked = {"text": ["text"], "image": ["image"], "both": ["text", "image"]}[direction]
        self.memories = nn.ModuleDict({side: Memory(width=width) for side in asked if steps > 1})

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 5 * self.width * max(regions, words) * self.steps + 4 * regions * words

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C)."""
        total = torch.zeros(len(image.mask), len(text.mask), device=image.mask.device, dtype=image.tokens.dtype)
        if self.direction != "image":
            total = total + self._ask(text, image, "text").T
        if self.direction != "text":
            total = total + self._ask(image, text, "image")
        return total

    def _ask(self, query: Stream, source: Stream, side: str) -> Tensor:
        asking, original = query.tokens[:, None], query.tokens[:, None]
        total = torch.zeros(len(query.mask), len(source.mask), device=query.mask.device, dtype=query.tokens.dtype)
        for step in range(self.steps):
            if step == 0:
                products = torch.einsum("aqe,bse->abqs", query.tokens, source.tokens)
            else:
                products = torch.einsum("abqe,bse->abqs", asking, source.tokens)
            shares = attention(products, query.mask, source.mask, self.sharpness)
            read = torch.einsum("abqs,bse->abqe", shares, source.tokens)
            found = F.cosine_similarity(original, read, dim=3)
            total = total + pooled(found, query.mask, "mean")
            if step + 1 < self.steps:
                asking = cast(Tensor, self.memories[side](asking, read))
        return total
