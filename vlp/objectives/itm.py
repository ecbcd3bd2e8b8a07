"""Image-text matching: is this pair a pair? (ALBEF equation 4, ViLT section 4.1)"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.gather import rank_weight
from vlp.similarity.matching import MatchingHead
from vlp.types import Loss
from vlp.view import Negatives, View


def matching_loss(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy of (R, 2) logits, averaged over rows of weight 1."""
    losses = F.cross_entropy(logits.float(), label, reduction="none")
    return (losses * weight).sum() / weight.sum().clamp(min=1)


class ITM(nn.Module):
    """Needs the similarity "itm". `negatives` says which pairs are scored; rows without a negative weigh nothing."""

    def __init__(self, *, negatives: Negatives, weight: float = 1.0) -> None:
        super().__init__()
        self.negatives = negatives
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Loss over positive and negative rows; accuracy is to be read against the share of negatives."""
        rows, _, _, summary = view.matched(self.negatives)
        logits = cast(MatchingHead, view.model.similarities["itm"])(summary)
        weight = rank_weight(rows.weight.sum(), logits.device)  # rows without a negative may lie on one rank
        value = weight * matching_loss(logits, rows.label, rows.weight)
        right = (logits.argmax(1) == rows.label).float() * rows.weight
        return Loss(
            value, {"itm": value.detach(), "itm_accuracy": weight * right.sum() / rows.weight.sum().clamp(min=1)}
        )
