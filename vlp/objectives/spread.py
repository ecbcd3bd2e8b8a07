"""What keeps a set of embeddings a set, and a Gaussian a Gaussian (PVSE, Song 2019, section 3.4; PCME, Chun 2021)."""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from vlp.layers.chain import Chain
from vlp.objectives.scored import sides
from vlp.pooling.pie import PIE
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.types import Loss, Stream
from vlp.view import View


def diversity_loss(residuals: Tensor) -> Tensor:
    """(B, K, E): the mean over the rows of |G - I| / K^2, G the Gram matrix of the K residuals at unit length."""
    unit = torch.nn.functional.normalize(residuals, dim=2)
    off = unit @ unit.transpose(1, 2) - torch.eye(residuals.shape[1], dtype=unit.dtype, device=unit.device)
    return (off.square().sum((1, 2)) + 1e-12).sqrt().mean() / residuals.shape[1] ** 2


def discrepancy_loss(one: Tensor, two: Tensor, gamma: float = 0.5) -> Tensor:
    """Squared maximum mean discrepancy of (R, E) and (S, E) under the kernel exp(-gamma |x - y|^2)."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-gamma * torch.cdist(x, y).square()).mean()

    return kernel(one, one) + kernel(two, two) - 2 * kernel(one, two)


def bottleneck_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """(B, E), (B, E): KL of each row's Gaussian to the standard normal, the mean over the rows (VIB)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


class SetSpread(nn.Module):
    """Needs a token similarity whose heads end in `PIE`: diversity within a set and one distribution for both sides."""

    def __init__(
        self, *, similarity: str = "match", diversity: float = 0.1, discrepancy: float = 0.01, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.diversity = diversity
        self.discrepancy = discrepancy
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Weighted sum of both."""
        match = cast(TokenSimilarity, view.model.similarities[self.similarity])
        image, text = cast(Chain, match.image), cast(Chain, match.text)
        diverse = diversity_loss(_residuals(image, view.image)) + diversity_loss(_residuals(text, view.text))
        pairs = sides(view, match)
        apart = discrepancy_loss(pairs.images.tokens.flatten(0, 1), pairs.texts.tokens.flatten(0, 1))
        value = self.diversity * diverse + self.discrepancy * apart
        return Loss(value, {"diversity": diverse.detach(), "discrepancy": apart.detach()})


def _residuals(head: Chain, stream: Stream) -> Tensor:
    return cast(PIE, list(head.parts)[-1]).residuals(head.before_last(stream))


class Bottleneck(nn.Module):
    """Needs a similarity whose heads give Gaussians: the variational information bottleneck, both sides.

    `kind` says what the second token is the logarithm of. PCME's code samples with it as a deviation and puts it here
    as a variance; this project means one thing by it.
    """

    def __init__(
        self, *, similarity: str = "match", kind: Literal["deviation", "variance"] = "deviation", weight: float = 1e-5
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.power = 2.0 if kind == "deviation" else 1.0
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Sum of both sides' KL."""
        match = cast(TokenSimilarity, view.model.similarities[self.similarity])
        image, text = cast(Stream, match.image(view.image)), cast(Stream, match.text(view.text))
        value = torch.stack([bottleneck_loss(s.tokens[:, 0], self.power * s.tokens[:, 1]) for s in (image, text)]).sum()
        return Loss(value, {"vib": value.detach()})
