"""Triplet ranking: a pair scores above its rivals by a margin (DeViSE, VSE0, VSE++, LTBNN, and the local family)."""

from typing import Literal

import torch
from torch import Tensor, nn

from vlp.objectives.scored import Sides, sides
from vlp.similarity.token_pairs import aligned
from vlp.types import Loss
from vlp.view import View

Negatives = Literal["all", "hardest"] | int  # an int: the mean of so many hardest


def violations(
    scores: Tensor, own: Tensor, rival: Tensor, margin: Tensor | float, negatives: Negatives = "hardest"
) -> Tensor:
    """(B, K) scores of queries with candidates, (B,) with their own -> (B,) hinges [margin + rival - own]+.

    Over the `rival` (B, K) candidates: their sum ("all", VSE0), the largest ("hardest", VSE++, Faghri 2018, equation
    6), or the mean of the n largest. `margin` may differ by query. A query without rivals gives zero.
    """
    margins = margin[:, None] if isinstance(margin, Tensor) else margin
    costs = (margins + scores - own[:, None]).clamp(min=0).masked_fill(~rival, 0.0)
    if negatives == "all":
        return costs.sum(1)
    if negatives == "hardest":
        return costs.max(1).values
    return costs.topk(min(negatives, costs.shape[1]), 1).values.mean(1)


class Ranking(nn.Module):
    """Needs a similarity with `image_tokens`, `text_tokens` and `token_scores`. Both directions, mean over the pairs.

    Rivals are the captions (pictures) of other image ids among those of all ranks. The first `easy_steps` steps take
    all rivals instead of the hardest, from which a model at its beginning can collapse (the warm-up of VSE-infinity).
    `squash` compares sigmoids of the scores, for heads that give logits (SGRAF, UNITER's ranking). `intra_text` weighs
    the same hinge between captions: same-picture captions lie nearer than others by the margin (LTBNN's structure
    term, Wang 2018, equation 6), for vector similarities and batches with several captions of a picture.
    `two_pass` scores all pairs without gradient and then those again that the loss hangs on, 3 B of them: the same
    loss and gradient at O(B) memory, where the scorer draws nothing at random.
    """

    steps: Tensor

    def __init__(
        self,
        *,
        similarity: str = "itc",
        margin: float = 0.2,
        negatives: Negatives = "hardest",
        easy_steps: int = 0,
        squash: bool = False,
        intra_text: float = 0.0,
        two_pass: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if two_pass and negatives != "hardest":
            raise ValueError(f"two passes pay for the hardest rival alone; negatives={negatives!r} needs every score")
        self.similarity = similarity
        self.margin = margin
        self.negatives = negatives
        self.easy_steps = easy_steps
        self.squash = squash
        self.intra_text = intra_text
        self.two_pass = two_pass
        self.weight = weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, view: View) -> Loss:
        """Loss, and the share of pairs that the hardest rival beats."""
        pairs = sides(view, self.similarity)
        easy = self.training and int(self.steps) < self.easy_steps
        own, rivals = self._two_passes(pairs) if self.two_pass and not easy else (pairs.own, None)
        if rivals is not None:
            hinges = sum((self.margin + self._squashed(r) - self._squashed(own)).clamp(min=0) * w for r, w in rivals)
            value = torch.as_tensor(hinges).mean()
        else:
            value = self._all_pairs(pairs, own, "all" if easy else self.negatives)
        if self.intra_text:
            value = value + self.intra_text * self._between_texts(pairs)
        return Loss(value, {"rank": value.detach()})

    def _all_pairs(self, pairs: Sides, own: Tensor, negatives: Negatives) -> Tensor:
        own = self._squashed(own)
        image = violations(self._squashed(pairs.to_text), own, pairs.other_texts, self.margin, negatives)
        text = violations(self._squashed(pairs.to_image), own, pairs.other_images, self.margin, negatives)
        return (image + text).mean()

    def _squashed(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores) if self.squash else scores

    def _two_passes(self, pairs: Sides) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Scores with gradient of the pairs, and of each one's hardest rivals with whether there is one."""
        with torch.no_grad():
            low = float("-inf")
            text = pairs.to_text.masked_fill(~pairs.other_texts, low).argmax(1)
            image = pairs.to_image.masked_fill(~pairs.other_images, low).argmax(1)
        own_image, own_text, similarity = pairs.image.select(pairs.row), pairs.text, pairs.similarity
        own = aligned(similarity, own_image, own_text)
        with_text = aligned(similarity, own_image, pairs.texts.select(text))
        with_image = aligned(similarity, pairs.images.select(image), own_text)
        return own, [
            (with_text, pairs.other_texts.any(1).to(own.dtype)),
            (with_image, pairs.other_images.any(1).to(own.dtype)),
        ]

    def _between_texts(self, pairs: Sides) -> Tensor:
        scores = pairs.similarity.token_scores(pairs.text, pairs.texts)
        itself = pairs.own_text[:, None] == torch.arange(scores.shape[1], device=scores.device)
        same = ~pairs.other_texts & ~itself
        furthest = scores.masked_fill(~same, float("inf")).min(1).values
        there = same.any(1)
        furthest = torch.where(there, furthest, torch.zeros_like(furthest))
        hinge = violations(scores, furthest, pairs.other_texts, self.margin, self.negatives)
        return (hinge * there).sum() / len(there)

    def after_step(self) -> None:
        """The warm-up counts steps."""
        self.steps.add_(1)
