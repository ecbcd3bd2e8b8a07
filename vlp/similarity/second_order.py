"""Fragments weighed by what both modalities say of them (CAAN, Zhang 2020, section 3.3)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Stream


class SecondOrderAttention(nn.Module):
    """The scorer of CAAN: the cosine of two vectors, each the fragments of one side weighed for this pair.

    The affinity H = tanh(V K T^T) speaks across the modalities, and H H^T within one: regions that the same words fit
    belong together. Weights are the softmax of w tanh(V + H T + (H H^T) V), each term through its own projection, the
    affinities' rows at unit length. There is no released code; the normalisation is this project's reading.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.affinity = nn.Parameter(torch.eye(width) + 0.01 * torch.randn(width, width))
        self.image = Weigher(width=width)
        self.text = Weigher(width=width)
        self.width = width

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 4 * self.width * (regions + words) + 2 * (regions * words + regions**2 + words**2)

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """(B, N, E), (C, L, E) -> (B, C)."""
        products = torch.tanh(torch.einsum("bne,ef,clf->bcnl", image.tokens, self.affinity, text.tokens))
        both = image.mask[:, None, :, None] & text.mask[None, :, None, :]
        products = products.masked_fill(~both, 0.0)
        regions = self.image(products, image.tokens[:, None], text.tokens[None], image.mask[:, None])
        words = self.text(products.transpose(2, 3), text.tokens[None], image.tokens[:, None], text.mask[None])
        return F.cosine_similarity(regions, words, dim=2)


class Weigher(nn.Module):
    """(B, C, K, S) affinities of K own and S other fragments -> (B, C, E): the own ones, weighed and summed."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.across = nn.Linear(width, width, bias=False)
        self.within = nn.Linear(width, width, bias=False)
        self.weigh = nn.Linear(width, 1, bias=False)

    def forward(self, affinity: Tensor, own: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        """Own fragments (B or 1, C or 1, K, E) of which `mask` are there, and the other side's."""
        second = affinity @ affinity.transpose(2, 3)
        across = F.normalize(affinity, dim=3) @ self.across(other)
        within = F.normalize(second, dim=3) @ self.within(own)
        scores = cast(Tensor, self.weigh(torch.tanh(self.own(own) + across + within)))[..., 0]
        shares = F.softmax(scores.masked_fill(~mask, float("-inf")), dim=2)
        return (shares[..., None] * own).sum(2)
