"""Pairwise sigmoid contrast: each pair is told right or wrong by itself (SigLIP, Zhai 2023, algorithm 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.types import Loss
from vlp.view import View


def sigmoid_loss(scores: Tensor, positive: Tensor) -> Tensor:
    """Sum over (B, K) logits of -log sigmoid(+score) where `positive`, -log sigmoid(-score) elsewhere, divided by B."""
    return -F.logsigmoid(torch.where(positive, scores, -scores)).sum() / len(scores)


class SigmoidContrast(nn.Module):
    """Needs the similarity "itc", at temperature 0.1 to begin as published, and no teacher. Every pair of one image is
    a positive.

    Local images meet the texts of all ranks, so that each pair of the global batch counts once. `chunk` texts are
    scored at a time and scored again in the backward pass: memory per rank is then B x chunk, not B x W B, and the
    loss the same.
    """

    def __init__(self, *, weight: float = 1.0, bias: float = -10.0, chunk: int | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = nn.Parameter(torch.tensor([bias]))  # (1,), so that it can be cut
        self.chunk = chunk

    def forward(self, view: View) -> Loss:
        """Loss over local images x texts of all ranks. Raises ValueError with a teacher, whose queue it cannot use."""
        if view.momentum is not None:
            raise ValueError("the sigmoid contrast has no use for a teacher or its queue; set teacher=null")
        c = view.contrast
        bias = self.bias[0]
        total = torch.zeros((), device=c.image.device, dtype=c.image.dtype)
        size = self.chunk or len(c.candidate_ids)
        for start in range(0, len(c.candidate_ids), size):
            texts, ids = c.text_candidates[start : start + size], c.candidate_ids[start : start + size]
            pieces = (c.image, texts, c.scale, bias, view.batch.image_id[:, None] == ids)
            if self.chunk is None:
                total = total + _scored(*pieces)
            else:
                total = total + checkpoint(_scored, *pieces, use_reentrant=False)
        report = {"sigmoid": total, "logit_scale": c.scale, "logit_bias": bias}
        return Loss(total, {name: value.detach() for name, value in report.items()})


def _scored(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positive: Tensor) -> Tensor:
    return sigmoid_loss(scale * image @ text.T + bias, positive)
