"""Words relate to each other as the regions that they speak of do (IAIS, Ren 2021, arXiv 2105.13868, section 4)."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.types import Loss
from vlp.view import View

Kind = Literal["singular", "distributed"]
Anchor = Literal["text", "image"]
EPSILON = 1e-6  # beside a share under the logarithm


def shares(affinities: Tensor, keys: Tensor) -> Tensor:
    """(R, H, A, C) -> (R, A, C): the softmax over the keys (R, C) present, zero elsewhere, its mean over the heads."""
    attention = F.softmax(_low(affinities, ~keys[:, None, None]), dim=-1, dtype=_wide(affinities))
    return attention.masked_fill(~keys[:, None, None], 0.0).mean(1)


def through_partners(across: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """(R, A, C), (R, C, C) -> (R, A, A): how the partners of two tokens attend to each other, as shares of the tokens
    present in `mask` (R, A). The partner of a token is the one of the other side that it attends to most (4.2)."""
    partner = across.argmax(2)
    rows = other.gather(1, partner[:, :, None].expand(-1, -1, other.shape[2]))
    between = rows.gather(2, partner[:, None].expand(-1, partner.shape[1], -1))
    return F.softmax(_low(between, ~mask[:, None]), dim=-1).masked_fill(~mask[:, None], 0.0)


def divergence(one: Tensor, two: Tensor, mask: Tensor) -> Tensor:
    """(R, A, A), (R, A, A) shares -> (R,): KL(one | two) + KL(two | one), the mean over the tokens in `mask` (R, A)."""
    both = ((one - two) * ((one + EPSILON).log() - (two + EPSILON).log())).sum(2)
    return both.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def relation_distance(affinities: Tensor, words: Tensor, regions: Tensor, *, anchor: Anchor, kind: Kind) -> Tensor:
    """(R, H, L + N, L + N), (R, L) words and (R, N) regions present -> (R,): how far the attention among the tokens of
    `anchor` lies from the same attention told by the other side: through each token's partner ("singular"), or through
    all tokens, there and back ("distributed", section 4.3)."""
    length = words.shape[1]
    text, image = (slice(0, length), words), (slice(length, None), regions)
    (own, mask), (other, there) = (text, image) if anchor == "text" else (image, text)
    across = shares(affinities[:, :, own, other], there)
    if kind == "singular":
        told = through_partners(across, shares(affinities[:, :, other, other], there), mask)
    else:
        told = across @ shares(affinities[:, :, other, own], mask)
    return divergence(shares(affinities[:, :, own, own], mask), told, mask)


class RelationAlignment(nn.Module):
    """Needs a fusion whose last layer tells its `affinities` (`OneStream`), and no image tokens but regions or patches.

    On the batch's own pairs alone; words without [CLS] and [SEP]. One step anchors in the words, the next in the
    regions. The weight grows by exp(5 (t / T - 1)) over T = `total_steps`, from 0.007 to 1.
    """

    steps: Tensor

    def __init__(self, *, total_steps: int, kind: Kind = "singular", weight: float = 1.0) -> None:
        super().__init__()
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps}: give the steps of the whole training, run.steps")
        self.total_steps = total_steps
        self.kind: Kind = kind
        self.weight = weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, view: View) -> Loss:
        """Mean over the pairs, weighted by the schedule; reported without its weight."""
        batch, fusion = view.batch, _fusion(view)
        affinities = fusion.affinities(view.text, view.prepared, batch.image_row)
        regions = view.image.mask if batch.image_row is None else view.image.mask[batch.image_row]
        anchor: Anchor = "image" if int(self.steps) % 2 else "text"
        distance = relation_distance(affinities, batch.word_ids >= 0, regions, anchor=anchor, kind=self.kind).mean()
        return Loss(self.share() * distance, {"relations": distance.detach()})

    def share(self) -> float:
        """The weight of this step."""
        return math.exp(5 * (min(int(self.steps) / self.total_steps, 1.0) - 1))

    def after_step(self) -> None:
        """Counts steps, for the anchor and the weight."""
        self.steps.add_(1)


def _fusion(view: View) -> Any:
    fusion: Any = view.model.fusion
    if not hasattr(fusion, "affinities"):
        raise ValueError(f"relation alignment reads a fusion's last attention (OneStream), not {type(fusion).__name__}")
    return fusion


def _wide(tensor: Tensor) -> torch.dtype:
    """fp32 or better: attention under autocast comes in bf16."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _low(tensor: Tensor, absent: Tensor) -> Tensor:
    """The lowest number where `absent`, not -inf: a row without any key is even instead of NaN."""
    return tensor.masked_fill(absent, torch.finfo(tensor.dtype).min)
