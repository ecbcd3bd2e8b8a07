"""Scorers of items that are one vector or a few: distances, orders, sets, probabilities.

Heads end in a pooling that gives a stream of K tokens (`vlp/pooling/pie.py`, `OneToken`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.similarity.vector import one_token
from vlp.types import Stream


class OneToken(nn.Module):
    """A vector (B, E) as a stream of one token of length 1: the last part of a head."""

    def forward(self, vectors: Tensor) -> Stream:
        """Vector to stream."""
        return one_token(F.normalize(vectors, dim=-1))


class Euclidean(nn.Module):
    """(B, 1, E), (C, 1, E) -> (B, C): -sqrt(|v - t|^2 + eps), of bounded slope (LTBNN, Wang 2018, equation 1)."""

    def __init__(self, *, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 3

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """All pairs."""
        return -(squared_distances(image.tokens[:, 0], text.tokens[:, 0]) + self.eps).sqrt()


class Order(nn.Module):
    """(B, 1, E), (C, 1, E) -> (B, C): -|max(0, t - v)|, a picture below its captions (Vendrov 2016; VSE++, section 3).

    Both sides are made positive, as in VSE++'s code.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 2 * self.width

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """All pairs."""
        above = (text.tokens[:, 0].abs()[None] - image.tokens[:, 0].abs()[:, None]).clamp(min=0)
        # The square root has no slope at zero, where an order holds perfectly.
        return -(above.square().sum(-1) + 1e-12).sqrt()


class BestOfSets(nn.Module):
    """(B, K, E), (C, M, E) -> (B, C): the largest of the K x M inner products (PVSE, Song 2019, section 3.3)."""

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 2 * regions * words

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """All pairs."""
        return torch.einsum("bke,cme->bckm", image.tokens, text.tokens).amax((2, 3))


class MatchProbability(nn.Module):
    """(B, 2, E), (C, 2, E), mean and log deviation -> (B, C) log odds of a match (PCME, Chun 2021, equation 4).

    The probability is the mean over J x J pairs of samples of s(-a |z - z'| + b) with s(x) = e^x / (e^x + e^-x), which
    is sigmoid(2 x). `samples` J in training. In evaluation the means stand for the distributions (J = 1 without noise),
    so that a ranking is one of the model and not of a draw. `steepness` a and `shift` b are learned.
    """

    def __init__(self, *, samples: int = 7, steepness: float = 15.0, shift: float = 15.0) -> None:
        super().__init__()
        self.samples = samples
        self.steepness = nn.Parameter(torch.tensor(steepness))
        self.shift = nn.Parameter(torch.tensor(shift))

    def numbers(self, regions: int, words: int) -> int:
        """Numbers held for one pair."""
        return 4 * self.samples**2

    def forward(self, image: Stream, text: Stream) -> Tensor:
        """All pairs."""
        one, two = self.drawn(image.tokens), self.drawn(text.tokens)
        squares = squared_distances(one.flatten(0, 1), two.flatten(0, 1))
        distances = (squares + 1e-12).sqrt().view(*one.shape[:2], *two.shape[:2])
        inside = 2 * (self.shift - self.steepness * distances)
        # Sums of sigmoids and of their complements by logarithms: log odds never saturate.
        match = torch.logsumexp(F.logsigmoid(inside).transpose(1, 2).flatten(2), 2)
        other = torch.logsumexp(F.logsigmoid(-inside).transpose(1, 2).flatten(2), 2)
        return match - other

    def drawn(self, gaussians: Tensor) -> Tensor:
        """(B, 2, E) -> (B, J, E) samples, or the mean alone in evaluation."""
        mean, log_deviation = gaussians[:, :1], gaussians[:, 1:2]
        if not self.training:
            return mean
        noise = torch.randn(len(mean), self.samples, mean.shape[2], device=mean.device, dtype=mean.dtype)
        return mean + log_deviation.exp() * noise


def squared_distances(image: Tensor, text: Tensor) -> Tensor:
    """(B, E), (C, E) -> (B, C), never below zero."""
    lengths = image.square().sum(-1)[:, None] + text.square().sum(-1)[None]
    return (lengths - 2 * image @ text.T).clamp(min=0)
