"""Learning from pairs of which some are none (NCR: noisy correspondence, Huang 2021).

Two networks of one form, each told by the other which pairs to trust: a right pair is learned sooner than a wrong one,
so losses split into two heaps. What a pair is worth turns into its margin.
"""

from typing import cast

import torch
from torch import Tensor, nn

from vlp.layers.gather import gather
from vlp.objectives.mixture import clean_probability
from vlp.objectives.ranking import violations
from vlp.objectives.scored import Sides, sides
from vlp.similarity.ensemble import Ensemble
from vlp.types import Loss
from vlp.view import View


def soft_margin(worth: Tensor, margin: float) -> Tensor:
    """(B,) worth y in [0, 1] -> margins m (10^y - 1) / 9: none for 0, the whole m for 1 (equation 9)."""
    return margin * (10**worth - 1) / 9


def predicted_worth(to_text: Tensor, to_image: Tensor, own: Tensor, margin: float) -> Tensor:
    """(B, K) scores both ways -> (B,) worth: the margin less half the mean hinges, over that of the batch's best tenth,
    within [0, 1] (equations 6-7)."""
    hinges = [(margin + scores - own[:, None]).clamp(min=0).mean(1) for scores in (to_text, to_image)]
    left = (margin - (hinges[0] + hinges[1]) / 2).clamp(0, margin)
    best = left.topk(max(len(left) // 10, 1)).values.mean()
    return (left / best.clamp(min=1e-8)).clamp(max=1)


class NoisyCorrespondence(nn.Module):
    """Needs a similarity that is an `Ensemble` of two. Each part learns with soft margins that the other one gives.

    For `warmup_steps` the mean hinge over all rivals. Then, every `epoch_steps`, two Gaussians are fitted to each
    part's newest losses of all captions, and the other part trusts the pairs below. A trusted pair is worth
    w + (1 - w) prediction, w its probability; another one the mean prediction of both parts, from `doubtful_steps` on,
    and nothing before. Losses are those of the training steps, where the paper passes over the data once more for them.
    Caption ids run from 0 to `captions` - 1.
    """

    losses: Tensor  # (2, captions), NaN where a caption was not yet seen
    clean: Tensor  # (2, captions) probabilities
    steps: Tensor

    def __init__(
        self,
        *,
        captions: int,
        epoch_steps: int,
        warmup_steps: int,
        doubtful_steps: int,
        similarity: str = "match",
        margin: float = 0.2,
        threshold: float = 0.5,
        squash: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.epoch_steps = epoch_steps
        self.warmup_steps = warmup_steps
        self.doubtful_steps = doubtful_steps
        self.similarity = similarity
        self.margin = margin
        self.threshold = threshold
        self.squash = squash
        self.weight = weight
        self.register_buffer("losses", torch.full((2, captions), float("nan")))
        self.register_buffer("clean", torch.ones(2, captions))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, view: View) -> Loss:
        """Sum of both parts' losses. Raises ValueError for a caption id out of range."""
        ids = view.batch.caption_id
        if int(ids.max()) >= self.losses.shape[1]:
            raise ValueError(f"caption id {int(ids.max())} is not below captions={self.losses.shape[1]}; raise it")
        parts = cast(Ensemble, view.model.similarities[self.similarity]).parts
        found = [self._scores(sides(view, part)) for part in parts]
        if self.training:
            self._seen.append((ids, torch.stack([_mean_hinges(*f, self.margin).detach() for f in found])))
        if int(self.steps) < self.warmup_steps:
            value = torch.stack([_mean_hinges(*f, self.margin).mean() for f in found]).sum()
            return Loss(value, {"ncr": value.detach()})
        with torch.no_grad():
            worths = [predicted_worth(to_text, to_image, own, self.margin) for to_text, to_image, own, _, _ in found]
        value = torch.zeros((), device=ids.device)
        for number, (to_text, to_image, own, texts, images) in enumerate(found):
            margin = soft_margin(self._worth(ids, number, worths), self.margin)
            counted = (margin > 0).to(own.dtype)
            rows = violations(to_text, own, texts, margin) + violations(to_image, own, images, margin)
            value = value + (rows * counted).mean()
        trusted = (self.clean[:, ids] > self.threshold).float().mean()
        return Loss(value, {"ncr": value.detach(), "ncr_trusted": trusted})

    def _scores(self, pairs: Sides) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        to_text, to_image, own = pairs.to_text, pairs.to_image, pairs.own
        if self.squash:
            to_text, to_image, own = (torch.sigmoid(scores) for scores in (to_text, to_image, own))
        return to_text, to_image, own, pairs.other_texts, pairs.other_images

    def _worth(self, ids: Tensor, number: int, worths: list[Tensor]) -> Tensor:
        """(B,) worth of each pair for a part: trusted by the other's probabilities, or predicted by both."""
        clean = self.clean[1 - number, ids]
        doubtful = (worths[0] + worths[1]) / 2 * float(int(self.steps) >= self.doubtful_steps)
        return torch.where(clean > self.threshold, clean + (1 - clean) * worths[number], doubtful)

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the losses of the step, on all ranks alike; divide the captions anew at the end of an epoch."""
        for ids, losses in self._seen:
            self.losses[:, gather(ids)] = gather(losses.T.contiguous()).T.to(self.losses.dtype)
        self._seen = []
        self.steps += 1
        if int(self.steps) >= self.warmup_steps and (int(self.steps) - self.warmup_steps) % self.epoch_steps == 0:
            self._divide()

    def _divide(self) -> None:
        for number in range(2):
            seen = ~self.losses[number].isnan()
            if int(seen.sum()) > 1:
                self.clean[number, seen] = clean_probability(self.losses[number, seen])

    def discard_step(self) -> None:
        """Forget the losses of a step that is not taken."""
        self._seen = []


def _mean_hinges(
    to_text: Tensor, to_image: Tensor, own: Tensor, texts: Tensor, images: Tensor, margin: float
) -> Tensor:
    """(B,) hinges averaged over the rivals, both ways."""
    one = violations(to_text, own, texts, margin, "all") / texts.sum(1).clamp(min=1)
    two = violations(to_image, own, images, margin, "all") / images.sum(1).clamp(min=1)
    return one + two
