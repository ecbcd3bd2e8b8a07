"""Image-text contrast with queue, soft and multi-positive targets (ALBEF, Li 2021, equations 1-2 and 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.similarity.cosine import split_heads
from vlp.types import Loss
from vlp.view import View


def contrast_targets(positives: Tensor, teacher: Tensor | None, alpha: Tensor | float) -> Tensor:
    """(B, K) target distribution: alpha * softmax(teacher) + (1 - alpha) * the positives, sharing each row's mass."""
    hard = positives.float() / positives.sum(1, keepdim=True).clamp(min=1)
    return hard if teacher is None else alpha * F.softmax(teacher, dim=1) + (1 - alpha) * hard


def contrast_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of (B, K) logits against (B, K) target distributions."""
    log_probabilities = F.log_softmax(scores, dim=1)
    # 0 * -inf at candidates that are left out would be NaN.
    return -(targets * log_probabilities.masked_fill(targets == 0, 0.0)).sum(1).mean()


def smoothed(targets: Tensor, smoothing: float, present: Tensor) -> Tensor:
    """(B, K) targets with the share `smoothing` spread evenly over the candidates `present` (ALIGN)."""
    even = present.float() / present.sum(1, keepdim=True).clamp(min=1)
    return (1 - smoothing) * targets + smoothing * even


def _heads_loss(ours: Tensor, theirs: Tensor, scale: Tensor, heads: int, targets: Tensor, empty: Tensor) -> Tensor:
    pairs = zip(split_heads(ours, heads), split_heads(theirs, heads), strict=True)
    scores = ((scale * own @ other.T).masked_fill(empty, float("-inf")) for own, other in pairs)
    return torch.stack([contrast_loss(some, targets) for some in scores]).mean()


class ITC(nn.Module):
    """Needs the similarity "itc". With a teacher: its embeddings and queue are the candidates, its scores soften the
    targets. Without: candidates are the batch of all ranks, with gradient. Every pair of one image is a positive.
    `smoothing` spreads that share of each target over all candidates (ALIGN, Jia 2021, section 4). Each head of an
    ensemble has its own loss, of which the mean counts: trained on their mean score the heads would become one."""

    def __init__(self, *, weight: float = 1.0, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Mean of image-to-text and text-to-image contrast."""
        c = view.contrast
        positives = view.batch.image_id[:, None] == c.candidate_ids[None]
        empty = torch.zeros_like(positives) if view.momentum is None else (c.candidate_ids == -1)[None]
        sides = []
        for side in ("image", "text"):
            ours, theirs = getattr(c, side), c.text_candidates if side == "image" else c.image_candidates
            targets = self._targets(view, side, theirs, positives, empty)
            if self.smoothing:
                targets = smoothed(targets, self.smoothing, (~empty).expand_as(targets))
            sides.append(_heads_loss(ours, theirs, c.scale, view.model.contrast.heads, targets, empty))
        value = (sides[0] + sides[1]) / 2
        return Loss(value, {"itc": value.detach(), "logit_scale": c.scale.detach()})

    @torch.no_grad()
    def _targets(self, view: View, side: str, candidates: Tensor, positives: Tensor, empty: Tensor) -> Tensor:
        if view.momentum is None or view.teacher is None:
            return contrast_targets(positives, None, 0.0)
        embedding = view.teacher.image_embedding if side == "image" else view.teacher.text_embedding
        soft = (view.contrast.scale * embedding @ candidates.T).masked_fill(empty, float("-inf"))
        return contrast_targets(positives, soft, view.momentum.alpha())
