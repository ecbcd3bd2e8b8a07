"""Cross-attention of words over a picture, scored for every pair at once: each word reads the patches that fit it, and
counts by a learned weight (the text-to-image form of SCAN, Lee 2018, section 3.2, with learned word weights in place
of the mean, and a softmax over the plain cosines)."""

import math

import torch
from torch import Tensor, nn

from vlp.layers.packing import Packing
from vlp.layers.shards import held
from vlp.types import Stream

TINY = 1e-8


class WordAttention(nn.Module):
    """A scorer for `TokenSimilarity`: unit tokens (B, N, E) and (C, L, E) -> (B, C) logits.

    A word w reads softmax(sharpness * cosine) over the patches and is worth the cosine of w with what it read; a
    caption scores exp(logit_scale) * sum_w softmax_w(u w) * worth. Only the words present are worked on, and what is
    read is never built: with shares p, cosines c and the picture's Gram matrix G the cosine is (p c) / sqrt(p G p).
    The temperature stays within [0.01, 0.5].
    """

    def __init__(self, *, embed_dim: int, sharpness: float = 10.0, temperature: float = 0.05) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.word_weight = nn.Linear(embed_dim, 1, bias=False)
        nn.init.zeros_(self.word_weight.weight)
        self.logit_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))  # (1,), so that it can be cut

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair: cosines, shares, and shares through the Gram matrix."""
        return 4 * regions * words

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C)."""
        rows = Packing.of(text.mask)
        words = rows.pack(text.tokens)  # (T, E)
        weights = self.word_weight(text.tokens)[..., 0].masked_fill(~text.mask, float("-inf")).softmax(1)
        worth = self._worth(image, words) * rows.pack(weights[..., None])[:, 0]  # (B, T)
        scores = worth.new_zeros(len(image.mask), rows.num_rows).index_add(1, rows.rows, worth)
        return self.logit_scale.exp() * scores

    def after_step(self) -> None:
        """Keep the temperature within [0.01, 0.5]."""
        with torch.no_grad():
            for part in held(self.logit_scale):
                part.clamp_(math.log(2.0), math.log(100.0))

    def _worth(self, image: Stream, words: Tensor) -> Tensor:
        """(B, T): cosine of each word with what it reads of each picture."""
        cosines = image.tokens @ words.T  # (B, N, T)
        missing = ~image.mask[..., None]
        shares = (self.sharpness * cosines).masked_fill(missing, float("-inf")).softmax(1)
        gram = image.tokens @ image.tokens.transpose(1, 2)
        length = ((gram @ shares) * shares).sum(1).clamp(min=TINY).sqrt()
        worth: Tensor = (shares * cosines).sum(1) / length
        return worth
