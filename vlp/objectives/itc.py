"""Image-text contrast with queue, soft and multi-positive targets (ALBEF, Li 2021, equations 1-2 and 6)."""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.chunks import sum_over_rows
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
    ensemble has its own loss, of which the mean counts: trained on their mean score the heads would become one. It
    reads nothing of a view but embeddings and image ids.

    A rank scores its own rows against all candidates; with `chunk`, so many of them at a time, and again in the
    backward pass. Memory per rank: B x (W B + Q) scores, or chunk x (W B + Q). The loss is the same.
    """

    embeddings_alone = True

    def __init__(self, *, weight: float = 1.0, smoothing: float = 0.0, chunk: int | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.weight = weight
        self.chunk = chunk

    def forward(self, view: View) -> Loss:
        """Mean of image-to-text and text-to-image contrast."""
        c, ids = view.contrast, view.batch.image_id
        taught = (None, None) if view.momentum is None else _taught(view)
        sides = [
            sum_over_rows(partial(self._sum, view, candidates), (rows, ids, soft), self.chunk) / len(rows)
            for rows, soft, candidates in (
                (c.image, taught[0], c.text_candidates),
                (c.text, taught[1], c.image_candidates),
            )
        ]
        value = (sides[0] + sides[1]) / 2
        return Loss(value, {"itc": value.detach(), "logit_scale": c.scale.detach()})

    def _sum(self, view: View, candidates: Tensor, rows: Tensor, ids: Tensor, soft: Tensor | None) -> Tensor:
        """Cross entropies of some rows against all candidates, summed. `soft`: the teacher's embeddings of the rows."""
        c = view.contrast
        with torch.no_grad():
            positives = ids[:, None] == c.candidate_ids
            empty = torch.zeros_like(positives) if view.momentum is None else (c.candidate_ids == -1)[None]
            teacher = None if soft is None else (c.scale * soft @ candidates.T).masked_fill(empty, float("-inf"))
            targets = contrast_targets(positives, teacher, 0.0 if view.momentum is None else view.momentum.alpha())
            if self.smoothing:
                targets = smoothed(targets, self.smoothing, (~empty).expand_as(targets))
        heads = getattr(view.model.contrast, "heads", 1)  # an ensemble's; other vectors are one
        return _heads_loss(rows, candidates, c.scale, heads, targets, empty) * len(rows)


@torch.no_grad()
def _taught(view: View) -> tuple[Tensor, Tensor]:
    """The teacher's embeddings of the batch's pictures and captions."""
    teacher = cast(View, view.teacher)
    return teacher.image_embedding, teacher.text_embedding
