"""Several similarities whose scores are averaged, as published figures of SCAN, VSRN, SGRAF and NCR are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlp.similarity.kinds import pair_numbers
from vlp.similarity.token_pairs import aligned
from vlp.types import Stream


class Ensemble(nn.Module):
    """The mean of the parts' scores. Pairwise: the tokens of all parts stand side by side in one stream.

    Each part leaves the masks of its streams as they come, so its head drops no tokens.
    """

    def __init__(self, *, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def image_tokens(self, image: Stream) -> Stream:
        """(B, N, D) -> (B, N, E1 + E2 + ...)."""
        return _beside([part.image_tokens(image) for part in self._parts()])

    def text_tokens(self, text: Stream) -> Stream:
        """(C, L, D) -> (C, L, E1 + E2 + ...)."""
        return _beside([part.text_tokens(text) for part in self._parts()])

    def token_scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C). Raises ValueError where the widths do not divide among the parts."""
        count = len(self.parts)
        if image.tokens.shape[2] % count:
            raise ValueError(f"tokens of {image.tokens.shape[2]} numbers are not those of {count} parts of one width")
        images, texts = image.tokens.chunk(count, 2), text.tokens.chunk(count, 2)
        found = [
            part.token_scores(Stream(i, image.mask), Stream(t, text.mask))
            for part, i, t in zip(self._parts(), images, texts, strict=True)
        ]
        return torch.stack(found).mean(0)

    def pair_numbers(self, regions: int, words: int) -> int:
        """Numbers that one pair holds at the peak: the parts score one after another."""
        return max(pair_numbers(part, regions, words) for part in self._parts())

    def scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, C) scores of every pair."""
        return self.token_scores(self.image_tokens(image), self.text_tokens(text))

    def pairs(self, image: Stream, text: Stream) -> Tensor:
        """(B,) scores of aligned pairs."""
        return aligned(self, self.image_tokens(image), self.text_tokens(text))

    def _parts(self) -> list[Any]:
        return list(self.parts)


def _beside(streams: list[Stream]) -> Stream:
    return Stream(torch.cat([stream.tokens for stream in streams], 2), streams[0].mask)
