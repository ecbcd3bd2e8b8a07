"""Iterative matching with recurrent attention memory (IMRAM, Chen 2020, sections 3.2-3.3)."""

from typing import cast

import torch
from torch import Tensor, nn

from vlp.similarity.stacked_attention import Direction, Side, cosines_read, pooled, shares_of
from vlp.types import Stream


class Memory(nn.Module):
    """Distillation unit, equations 7-9: g q + (1 - g) o with g = sigmoid(W_g [q; c]), o = tanh(W_o [q; c]).

    The weights over [q; c] are kept as two halves: the first step projects each query once for all items, and every
    step reads sources that went through `context` once, since the projection of a sum is the sum of the projections.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 2 * width)
        self.context = nn.Linear(width, 2 * width, bias=False)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """(Q, E) or (B, Q, E), and (B, Q, 2 E) what was read, through `context` -> (B, Q, E)."""
        gate, new = (self.query(query) + context).chunk(2, dim=-1)
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
        """(A, B) of A items that ask and B that are read. Held as (B, A Q, ...), so that every product with the
        sources of an item is one, for all fragments of all items that ask."""
        sources, gram = source.tokens, Side(source).gram
        asking, length = query.tokens.flatten(0, 1), query.tokens.norm(dim=2).flatten()
        cosines = torch.einsum("xe,bse->bxs", asking, sources)
        shares = self._shares(cosines, query.mask, source.mask)
        total = cosines_read(shares, cosines, length, gram)
        if self.steps > 1:
            memory = cast(Memory, self.memories[side])
            projected = memory.context(sources)
            for _ in range(self.steps - 1):
                asking = memory(asking, shares @ projected)
                shares = self._shares(asking @ sources.transpose(1, 2), query.mask, source.mask)
                total = total + cosines_read(shares, cosines, length, gram)
        return pooled(total.unflatten(1, query.mask.shape).transpose(0, 1), query.mask, "mean")

    def _shares(self, products: Tensor, query: Tensor, source: Tensor) -> Tensor:
        """(B, A Q, S) products -> shares; masks (A, Q) and (B, S)."""
        of_items = products.unflatten(1, query.shape)
        shares = shares_of(of_items, 2, 3, ~query[..., None], ~source[:, None, None], self.sharpness)
        return shares.flatten(1, 2)
