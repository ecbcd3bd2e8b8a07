"""Similarities of token against token: pairwise, scored in tiles so that memory stays bounded (the local family)."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.types import Stream

# 32 MB stay near a CPU's core: IMRAM and MMCA score 1.5 times as many pairs a second as in tiles of 256 MB.
CACHED = 1 << 23


class TokenSimilarity(nn.Module):
    """A head for each side, Stream -> Stream, and a `scorer` of the two: (B, N, E), (C, L, E) -> (B, C).

    A scorer also says how many numbers it holds for one pair at its peak (`numbers(N, L)`); as many pairs are scored at
    a time as hold `limit` numbers, 256 MB in fp32 by default, and without gradients on a CPU as hold `CACHED`. With
    gradients every tile is scored again in the backward pass, unless one holds all. Scores are computed in fp32 or
    better, under autocast too: attentions are sharp.
    """

    def __init__(self, *, image: nn.Module, text: nn.Module, scorer: nn.Module, limit: int = 1 << 26) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.scorer = scorer
        self.limit = limit

    def image_tokens(self, image: Stream) -> Stream:
        """(B, N, D) -> (B, N, E): the work on a picture alone."""
        return _full(self.image(image))

    def text_tokens(self, text: Stream) -> Stream:
        """(C, L, D) -> (C, L, E): the work on a caption alone."""
        return _full(self.text(text))

    def token_scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C), tile by tile."""
        rows, columns = self._tile_shape(image, text)
        with torch.autocast(image.tokens.device.type, enabled=False):
            if rows >= len(image.mask) and columns >= len(text.mask):
                return cast(Tensor, self.scorer(image, text))
            texts = [cropped(_part(text, start, columns)) for start in range(0, len(text.mask), columns)]
            bands = []
            for start in range(0, len(image.mask), rows):
                band = _part(image, start, rows)
                bands.append(torch.cat([self._tile(band, some) for some in texts], 1))
        return torch.cat(bands)

    def pair_numbers(self, regions: int, words: int) -> int:
        """Numbers that one pair holds at the peak."""
        return int(cast(Any, self.scorer).numbers(regions, words))

    def scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, C) scores of every pair."""
        return self.token_scores(self.image_tokens(image), self.text_tokens(text))

    def pairs(self, image: Stream, text: Stream) -> Tensor:
        """(B,) scores of aligned pairs."""
        return aligned(self, self.image_tokens(image), self.text_tokens(text))

    def _tile_shape(self, image: Stream, text: Stream) -> tuple[int, int]:
        near = image.mask.device.type == "cpu" and not torch.is_grad_enabled()
        limit = min(self.limit, CACHED) if near else self.limit
        pairs = max(limit // self.pair_numbers(image.mask.shape[1], text.mask.shape[1]), 1)
        rows = min(len(image.mask), max(int(pairs**0.5), pairs // len(text.mask)))
        return rows, max(pairs // rows, 1)

    def _tile(self, image: Stream, text: Stream) -> Tensor:
        if torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self.scorer, image, text, use_reentrant=False))
        return cast(Tensor, self.scorer(image, text))


def aligned(similarity: Any, image: Stream, text: Stream) -> Tensor:
    """Tokens of B pairs to their (B,) scores: the similarity on pairs of one picture and one caption, all at once."""

    def score(image_tokens: Tensor, image_mask: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        one = Stream(image_tokens[None], image_mask[None])
        return cast(Tensor, similarity.token_scores(one, Stream(text_tokens[None], text_mask[None])))[0, 0]

    return torch.vmap(score, randomness="different")(image.tokens, image.mask, text.tokens, text.mask)


def cropped(stream: Stream) -> Stream:
    """The stream without the places behind its longest row."""
    longest = int((stream.mask * torch.arange(1, stream.mask.shape[1] + 1, device=stream.mask.device)).max())
    return Stream(stream.tokens[:, :longest], stream.mask[:, :longest])


def _full(stream: Stream) -> Stream:
    return Stream(stream.tokens.to(torch.promote_types(stream.tokens.dtype, torch.float32)), stream.mask)


def _part(stream: Stream, start: int, count: int) -> Stream:
    return Stream(stream.tokens[start : start + count], stream.mask[start : start + count])
