"""Masked region modelling: what does a hidden region look like, and what is it? (UNITER, Chen 2020, section 3.2)"""

from dataclasses import replace
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.blocks import init_transformer
from vlp.layers.draws import some
from vlp.layers.gather import rank_weight
from vlp.types import Batch, Loss, Regions
from vlp.view import View


class RegionMasking(Protocol):
    """What may choose the hidden regions in place of single draws (`KnowledgeMasking`, `AlignmentMasking`)."""

    def hidden(self, batch: Batch) -> Tensor:
        """(P, R) bool: regions to hide, none of them padding."""


def hide_regions(mask: Tensor, probability: float) -> Tensor:
    """(P, R) bool: each region that is there with `probability`, and at least one where any is there."""
    return some(mask, probability)


def regression_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """MRFR: mean squared error over (M, F) values; 0 where nothing is hidden."""
    return (predicted.float() - features).square().sum() / max(features.numel(), 1)


def class_loss(logits: Tensor, probabilities: Tensor, target: Literal["kl", "label"]) -> Tensor:
    """MRC over (M, K) rows: KL(detector || model), or cross entropy to the detector's best class; their mean."""
    log_probabilities = F.log_softmax(logits.float(), dim=-1)
    if target == "label":
        losses = -log_probabilities.gather(1, probabilities.argmax(1, keepdim=True))[:, 0]
    else:
        losses = (torch.xlogy(probabilities, probabilities) - probabilities * log_probabilities).sum(1)
    return losses.sum() / max(len(losses), 1)


class MaskedRegions(nn.Module):
    """Regions are hidden while the caption stays whole; one fused pass serves both losses, each with its weight.

    Needs `RegionEmbedding` and a fusion that gives back image tokens (`OneStream`). The regression's output layer is
    the transpose of the region embedding's. A weight of 0 leaves its head out. `masking` chooses what is hidden.
    `alone` shows no caption (UNIMO's image branch), with `alone_` before the names in the report.
    """

    def __init__(
        self,
        *,
        width: int,
        feature_width: int,
        classes: int,
        probability: float = 0.15,
        target: Literal["kl", "label"] = "kl",
        feature_weight: float = 1.0,
        class_weight: float = 1.0,
        masking: RegionMasking | None = None,
        alone: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.masking = masking
        self.alone = alone
        if target not in ("kl", "label") or not feature_weight + class_weight:
            raise ValueError(f"target is 'kl' or 'label', not {target!r}, and one of the two weights must not be 0")
        self.probability = probability
        self.target = target
        self.classes = classes
        self.feature_weight = feature_weight
        self.class_weight = class_weight
        self.weight = weight
        if feature_weight:
            self.feature_head = _transform(width)
            self.feature_bias = nn.Parameter(torch.zeros(feature_width))
        if class_weight:
            self.class_head = nn.Sequential(_transform(width), nn.Linear(width, classes))
        init_transformer(self, width)

    def forward(self, view: View) -> Loss:
        """The weighted sum of both losses over the hidden regions of all ranks."""
        regions = cast(Regions, view.batch.regions)
        chosen = self.masking
        hidden = hide_regions(regions.mask, self.probability) if chosen is None else chosen.hidden(view.batch)
        tokens = self._fused(view, hidden)
        row = view.batch.image_row
        features, probabilities = regions.features, regions.class_probs
        if row is not None:
            hidden, features, probabilities = hidden[row], features[row], probabilities[row]
        seen = tokens[hidden]
        share = rank_weight(len(seen), seen.device)  # ranks hide different numbers of regions
        value, report = torch.zeros((), device=tokens.device), {}
        if self.feature_weight:
            weight = cast(Any, view.model.vision).feature.weight  # (D, F): its transpose maps D back to F
            predicted = F.linear(self.feature_head(seen), weight.t(), self.feature_bias)
            report["mrfr"] = share * regression_loss(predicted, features[hidden])
            value = value + self.feature_weight * report["mrfr"]
        if self.class_weight:
            logits, wanted = self.class_head(seen), probabilities[hidden]
            report["mrc"] = share * class_loss(logits, wanted, self.target)
            right = (logits.argmax(1) == wanted.argmax(1)).float().sum()
            report["mrc_accuracy"] = share * right / max(len(wanted), 1)
            value = value + self.class_weight * report["mrc"]
        prefix = "alone_" if self.alone else ""
        return Loss(value, {prefix + name: number.detach() for name, number in report.items()})

    def _fused(self, view: View, hidden: Tensor) -> Tensor:
        """(B, R, D) image tokens of each pair, its regions hidden."""
        regions = replace(cast(Regions, view.batch.regions), hidden=hidden)
        image = view.model.encode_image(replace(view.batch, regions=regions))
        fused = view.fused_with(image, view.text_nothing if self.alone else None)
        if fused.image is None:
            raise ValueError("masked regions need a fusion that gives image tokens (OneStream)")
        return fused.image.tokens


def _transform(width: int) -> nn.Sequential:
    """BERT's prediction transform: dense, GELU, norm."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))
