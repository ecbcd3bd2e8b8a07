"""Which modality is this vector from? The encoders learn that it cannot be told (TIMAM, Sarafianos 2019, eq. 3-4)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import Function

from vlp.types import Loss
from vlp.view import View


class _Reversed(Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grads[0], None


def reversed_gradient(vectors: Tensor, strength: float = 1.0) -> Tensor:
    """The same vectors, whose gradient arrives turned round and scaled (Ganin 2015)."""
    turned: Tensor = _Reversed.apply(vectors, strength)
    return turned


class ModalityAdversary(nn.Module):
    """Needs a vector similarity. A discriminator of two layers learns to tell pictures from captions, and through the
    reversed gradient the heads learn the opposite."""

    def __init__(
        self,
        *,
        width: int,
        hidden: int = 256,
        similarity: str = "itc",
        strength: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.strength = strength
        self.weight = weight
        self.discriminator = nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))

    def forward(self, view: View) -> Loss:
        """Cross entropy of the discriminator, pictures 1 and captions 0, and how often it is right."""
        similarity = view.model.similarities[self.similarity]
        image = similarity.embed_image(view.image)  # type: ignore[operator]
        row = view.batch.image_row
        image = image if row is None else image.index_select(0, row)
        vectors = torch.cat([image, similarity.embed_text(view.text)])  # type: ignore[operator]
        logits = self.discriminator(reversed_gradient(vectors, self.strength))[:, 0]
        target = (torch.arange(len(logits), device=logits.device) < len(image)).to(logits.dtype)
        value = F.binary_cross_entropy_with_logits(logits, target)
        right = ((logits > 0) == (target > 0)).float().mean()
        return Loss(value, {"adversary": value.detach(), "adversary_accuracy": right})
