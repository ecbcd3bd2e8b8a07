"""Dimensions of frozen features brought to one scale: each less its mean, over its standard deviation.

A head on pooled features of frozen encoders retrieved far better from standardised dimensions than from vectors
brought to one length each (docs/decisions.md, 2026-11-25).
"""

import torch
from torch import Tensor, nn

from vlp.layers.gather import gather


class Standardize(nn.Module):
    """(..., D) -> (..., D) by the statistics of all training vectors so far; as it is before the first step.

    `forward` changes nothing: `after_step` adds a step's vectors, those of all ranks, by Chan's rule for joining means
    and squared deviations (Chan, Golub, LeVeque 1983). Traffic a step: 2 D + 1 numbers from each rank. No batch's loss
    depends on which other rows are in it, as with a batch norm it would.
    """

    count: Tensor
    mean: Tensor
    deviation: Tensor  # sum of squared deviations from the mean

    def __init__(self, *, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.zeros(width))
        self._seen: list[Tensor] = []

    def forward(self, vectors: Tensor) -> Tensor:
        """Standardised vectors, fp32 or better."""
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        if self.training:
            self._seen.append(_moments(vectors.detach().flatten(0, -2)))
        if not self.count:
            return vectors
        return (vectors - self.mean) * (self.deviation / self.count + self.eps).rsqrt()

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the vectors of the step's forward passes, on all ranks alike."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        for moments in gather(torch.stack(seen)):
            count, (mean, deviation) = moments[0], moments[1:].chunk(2)
            joined = self.count + count
            step = mean - self.mean
            self.deviation.add_(deviation + step.square() * self.count * count / joined)
            self.mean.add_(step * count / joined)
            self.count.copy_(joined)

    def discard_step(self) -> None:
        """Forget the vectors of a step that is not taken."""
        self._seen = []


def _moments(rows: Tensor) -> Tensor:
    """(R, D) -> (1 + 2 D,): how many, their mean, their summed squared deviations from it."""
    mean = rows.mean(0)
    return torch.cat([rows.new_tensor([len(rows)]), mean, (rows - mean).square().sum(0)])
