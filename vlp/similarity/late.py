"""Late interaction: every token finds its best counterpart (FILIP, Yao 2021, section 3.1, equations 3-5)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.layers.shards import held
from vlp.types import Stream


def late_scores(image: Stream, text: Stream, spread: float = 0.0) -> tuple[Tensor, Tensor]:
    """(B, N, E) and (C, L, E) unit tokens -> image-to-text and text-to-image similarities, each (B, C).

    The mean over the tokens present of one side of the largest cosine with a token present of the other. With a
    `spread`, of the mean cosine weighed by softmax(cosine / spread): the largest one at 0, all alike far above 1.
    """
    cosine = torch.einsum("bne,cle->bcnl", image.tokens, text.tokens)
    words, cells = text.mask[None, :, None, :], image.mask[:, None, :, None]
    best_word = _best(cosine, words, 3, spread)  # (B, C, N)
    best_cell = _best(cosine, cells, 2, spread)  # (B, C, L)
    return _mean(best_word, image.mask[:, None]), _mean(best_cell, text.mask[None])


def _best(cosine: Tensor, mask: Tensor, dim: int, spread: float) -> Tensor:
    if not spread:
        return cosine.masked_fill(~mask, float("-inf")).amax(dim)
    return ((cosine / spread).masked_fill(~mask, float("-inf")).softmax(dim) * cosine).sum(dim)


def chunked_scores(image: Stream, text: Stream, chunk: int | None, spread: float = 0.0) -> tuple[Tensor, Tensor]:
    """`late_scores` of `chunk` texts at a time, computed again in the backward pass; None: of all at once."""
    if chunk is None:
        return late_scores(image, text, spread)
    parts = []
    for start in range(0, len(text.mask), chunk):
        some = Stream(text.tokens[start : start + chunk], text.mask[start : start + chunk])
        parts.append(checkpoint(late_scores, image, some, spread, use_reentrant=False))
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0.0).sum(2) / mask.sum(2).clamp(min=1)


class LateInteraction(nn.Module):
    """Token embeddings of both sides, with a learned temperature kept within [0.01, 0.5] (`clamp`).

    `chunk` texts are compared at a time and again in the backward pass: memory is B * chunk * N * L numbers.
    """

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        embed_dim: int = 256,
        temperature: float = 0.07,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.image_projection = nn.Linear(image_width, embed_dim)
        self.text_projection = nn.Linear(text_width, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))  # (1,), so that it can be cut
        self.chunk = chunk

    def image_tokens(self, image: Stream) -> Stream:
        """(B, N, D) -> (B, N, E), unit tokens."""
        return Stream(F.normalize(self.image_projection(image.tokens), dim=-1), image.mask)

    def text_tokens(self, text: Stream) -> Stream:
        """(C, L, D) -> (C, L, E), unit tokens."""
        return Stream(F.normalize(self.text_projection(text.tokens), dim=-1), text.mask)

    def compare(self, image: Stream, text: Stream) -> tuple[Tensor, Tensor]:
        """Token embeddings -> both similarities (B, C), without the temperature."""
        return chunked_scores(image, text, self.chunk)

    def token_scores(self, image: Stream, text: Stream) -> Tensor:
        """Token embeddings -> (B, C) logits: the mean of both similarities over the temperature."""
        one, two = self.compare(image, text)
        return self.scale() * (one + two) / 2

    def scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, C) logits of two streams."""
        return self.token_scores(self.image_tokens(image), self.text_tokens(text))

    def pairs(self, image: Stream, text: Stream) -> Tensor:
        """(B,) logits of aligned pairs."""
        return torch.cat([self.scores(_row(image, i), _row(text, i))[0] for i in range(len(text.mask))])

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


def _row(stream: Stream, i: int) -> Stream:
    return Stream(stream.tokens[i : i + 1], stream.mask[i : i + 1])
