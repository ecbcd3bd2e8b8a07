"""The angle at a rival is to be small (angular loss, Wang 2017, equation 5; SAEM, Wu 2019, section 3.4)."""

import math

import torch
from torch import Tensor, nn

from vlp.objectives.scored import sides
from vlp.types import Loss
from vlp.view import View


def angular_costs(anchor: Tensor, positive: Tensor, rivals: Tensor, degrees: float = 45.0) -> Tensor:
    """(B, E), (B, E), (K, E) unit rows -> (B, K): 4 tan^2(a) (x + y) . r - 2 (1 + tan^2(a)) x . y."""
    tangent = math.tan(math.radians(degrees)) ** 2
    return 4 * tangent * (anchor + positive) @ rivals.T - 2 * (1 + tangent) * (anchor * positive).sum(1)[:, None]


def angular_loss(costs: Tensor, rival: Tensor) -> Tensor:
    """(B, K) costs -> (B,): log(1 + e^cost) of the hardest rival; zero where there is none."""
    hardest = costs.masked_fill(~rival, float("-inf")).amax(1)
    return torch.where(rival.any(1), torch.nn.functional.softplus(hardest), torch.zeros_like(hardest))


class Angular(nn.Module):
    """Needs a vector similarity with unit embeddings. `decay_steps` divides the weight by ten each so many steps, as
    SAEM does every five epochs; 0 leaves it."""

    steps: Tensor

    def __init__(
        self, *, similarity: str = "itc", degrees: float = 45.0, decay_steps: int = 0, weight: float = 0.5
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.degrees = degrees
        self.decay_steps = decay_steps
        self.weight = weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, view: View) -> Loss:
        """Mean of both directions."""
        found = sides(view, self.similarity)
        image, text = found.image.tokens[:, 0].index_select(0, found.row), found.text.tokens[:, 0]
        to_text = angular_costs(image, text, found.texts.tokens[:, 0], self.degrees)
        to_image = angular_costs(text, image, found.images.tokens[:, 0], self.degrees)
        rows = angular_loss(to_text, found.other_texts) + angular_loss(to_image, found.other_images)
        return Loss(self._annealed() * rows.mean() / 2, {"angular": rows.detach().mean() / 2})

    def _annealed(self) -> float:
        done = int(self.steps) // self.decay_steps if self.decay_steps else 0
        return float(0.1**done)

    def after_step(self) -> None:
        """Counts the annealing."""
        self.steps.add_(1)
