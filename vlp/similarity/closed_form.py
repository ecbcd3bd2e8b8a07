"""The expected squared distance of two Gaussians, in closed form and so still an inner product (PCME++, Chun 2024)."""

import torch
from torch import Tensor, nn

from vlp.similarity.vector import one_token
from vlp.types import Stream


def closed_form_distance(image: Tensor, text: Tensor) -> Tensor:
    """(B, 2, E), (C, 2, E) mean and log variance -> (B, C): |m - m'|^2 + sum(var + var'), equation 1."""
    means = (image[:, 0].square().sum(1)[:, None] + text[:, 0].square().sum(1)) - 2 * image[:, 0] @ text[:, 0].T
    return means + image[:, 1].exp().sum(1)[:, None] + text[:, 1].exp().sum(1)


class GaussianSimilarity(nn.Module):
    """Scores -a d + b with the closed-form distance d between what the heads give, Stream -> Stream of mean and log
    variance (`GaussianPool`); a and b are learned.

    -a d + b = 2 a (m . m' - (|m|^2 + var) / 2 - (|m'|^2 + var') / 2) + b: with two more dimensions it is an inner
    product times `scale`, so that an index of inner products searches it.
    """

    def __init__(self, *, image: nn.Module, text: nn.Module, steepness: float = 5.0, shift: float = 5.0) -> None:
        super().__init__()
        self.image = image
        self.text = text
        self.steepness = nn.Parameter(torch.tensor(steepness))
        self.shift = nn.Parameter(torch.tensor(shift))

    def image_tokens(self, image: Stream) -> Stream:
        """The embedding as one token, (B, 1, E + 2)."""
        return one_token(self.embed_image(image))

    def text_tokens(self, text: Stream) -> Stream:
        """The embedding as one token, (C, 1, E + 2)."""
        return one_token(self.embed_text(text))

    def embed_image(self, image: Stream) -> Tensor:
        """(B, N, D) -> (B, E + 2)."""
        mean, cost = self._read(self.image(image))
        return torch.cat([mean, self.shift / self.scale() - cost, torch.ones_like(cost)], 1)

    def embed_text(self, text: Stream) -> Tensor:
        """(C, L, D) -> (C, E + 2)."""
        mean, cost = self._read(self.text(text))
        return torch.cat([mean, torch.ones_like(cost), -cost], 1)

    def common(self, vectors: Tensor) -> Tensor:
        """(B, E + 2) of either side -> (B, E) the means: the last two numbers are made for the other side."""
        return vectors[:, :-2]

    def _read(self, gaussians: Stream) -> tuple[Tensor, Tensor]:
        tokens = gaussians.tokens.to(torch.promote_types(gaussians.tokens.dtype, torch.float32))
        mean, log_variance = tokens[:, 0], tokens[:, 1]
        return mean, (mean.square().sum(1, keepdim=True) + log_variance.exp().sum(1, keepdim=True)) / 2

    def token_scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, 1, E + 2), (C, 1, E + 2) -> (B, C)."""
        return self.scale() * image.tokens[:, 0] @ text.tokens[:, 0].T

    def scores(self, image: Stream, text: Stream) -> Tensor:
        """(B, C) log odds of every pair."""
        return self.scale() * self.embed_image(image) @ self.embed_text(text).T

    def pairs(self, image: Stream, text: Stream) -> Tensor:
        """(B,) log odds of aligned pairs."""
        return self.scale() * (self.embed_image(image) * self.embed_text(text)).sum(-1)

    def scale(self) -> Tensor:
        """2 a."""
        return 2 * self.steepness
