"""Cross-modal message passing with gates that let only what fits through (CAMP, Wang 2019, section 3)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream


class SummaryAttention(nn.Module):
    """(R, K, E) -> (R, E): the mean of `heads` softmax-weighted sums, their weights by a small network."""

    def __init__(self, *, width: int, heads: int = 4) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, heads, bias=False))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens (..., K, E) of which `mask` (..., K) are there."""
        shares = F.softmax(self.weigh(tokens).masked_fill(~mask[..., None], float("-inf")), dim=-2)
        return torch.einsum("...kh,...ke->...e", shares, tokens) / shares.shape[-1]


class GatedFusion(nn.Module):
    """The scorer of CAMP: log odds that a pair is one, for a loss over pairs (`PairLoss`).

    Both sides read each other (softmax(q k / sqrt(E)), equations 2-3); a fragment takes in what it read as far as the
    two agree, by one gate sigmoid(x . c) (equation 6), and adds it to itself (equation 7); each side is summed up, and
    a small network judges the two.
    """

    def __init__(self, *, width: int, heads: int = 4) -> None:
        super().__init__()
        self.width = width
        self.image_fuse = nn.Linear(2 * width, width)
        self.text_fuse = nn.Linear(2 * width, width)
        self.image_summary = SummaryAttention(width=width, heads=heads)
        self.text_summary = SummaryAttention(width=width, heads=heads)
        self.judge = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 8 * self.width * (regions + words) + 4 * regions * words

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C) log odds."""
        products = torch.einsum("bne,cle->bcnl", image.tokens, text.tokens) * self.width**-0.5
        to_words = F.softmax(products.masked_fill(~text.mask[None, :, None], float("-inf")), dim=3)
        to_regions = F.softmax(products.masked_fill(~image.mask[:, None, :, None], float("-inf")), dim=2)
        regions = gated(self.image_fuse, image.tokens[:, None], text.tokens[None], to_words)
        words = gated(self.text_fuse, text.tokens[None], image.tokens[:, None], to_regions.transpose(2, 3))
        one = self.image_summary(regions, image.mask[:, None].expand(regions.shape[:3]))
        two = self.text_summary(words, text.mask[None].expand(words.shape[:3]))
        return cast(Tensor, self.judge(torch.cat([one, two], -1)))[..., 0]


def gated(fuse: nn.Linear, own: Tensor, other: Tensor, shares: Tensor) -> Tensor:
    """x + W (g [x; c]) with the scalar gate g = sigmoid(x . c), c what x reads of the other side; (B, C, K, E).

    `own` and `other` are the items of both sides, (B or 1, C or 1, K or S, E), `shares` (B, C, K, S). W [x; c] is a sum
    of two halves and c a sum of the other side's fragments, so that each item goes through its half of W once.
    """
    to_own, to_other = fuse.weight.chunk(2, 1)
    gate = torch.sigmoid((shares * (own @ other.transpose(2, 3))).sum(3, keepdim=True))
    fused = F.linear(own, to_own) + shares @ F.linear(other, to_other)
    return own + torch.addcmul(fuse.bias, gate, fused)
