"""Object-guided masked vision (KD-VLP, Liu 2022, section 3.3): a hidden object as a detector sees it."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vlp.layers import draws
from vlp.layers.blocks import init_transformer
from vlp.layers.boxes import cells_in, sample_boxes
from vlp.layers.gather import rank_weight
from vlp.objectives.masked_regions import class_loss, regression_loss
from vlp.types import Loss, Regions
from vlp.view import View


def one_region(mask: Tensor) -> Tensor:
    """(P, R) bool -> (P,) one present region of each row, drawn; 0 where there is none."""
    return draws.uniform(*mask.shape, device=mask.device).masked_fill(~mask, -1.0).argmax(1)


def as_map(tokens: Tensor, side: int) -> Tensor:
    """(B, side * side, D) tokens, row by row -> (B, D, side, side)."""
    return cast(Tensor, tokens.transpose(1, 2).unflatten(2, (side, side)))


class ObjectMasking(nn.Module):
    """One region of each picture is drawn, every cell of the grid that it overlaps is hidden, and the fused cells
    inside its box tell the detector's feature and classes of it. The detector is a teacher: the model never reads it.

    Needs `GridCNN(hides=True)`, regions in the data and a fusion that gives back image tokens.
    """

    def __init__(
        self,
        *,
        width: int,
        feature_width: int,
        classes: int,
        points: int = 3,
        target: Literal["kl", "label"] = "kl",
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.feature_width = feature_width
        self.classes = classes
        self.points = points
        self.target = target
        self.weight = weight
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))
        self.feature = nn.Linear(width, feature_width)
        self.label = nn.Linear(width, classes)
        init_transformer(self, width)

    def forward(self, view: View) -> Loss:
        """Mean squared error of the feature plus divergence of the classes, over all ranks' pictures with a region."""
        regions, side = cast(Regions, view.batch.regions), cast(Any, view.model.vision).grid
        place = torch.arange(len(regions.mask), device=regions.mask.device)
        chosen = one_region(regions.mask)
        boxes, there = regions.boxes[place, chosen], regions.mask.any(1)
        fused = view.fused_with(view.hiding(cells_in(boxes, side)))
        if fused.image is None:
            raise ValueError("object-guided masking needs a fusion that gives image tokens (OneStream)")
        row = place if view.batch.image_row is None else view.batch.image_row
        kept = there[row]
        seen = sample_boxes(as_map(fused.image.tokens, side), boxes[row][:, None], self.points)[:, 0][kept]
        told = self.transform(seen)
        features, probabilities = (x[place, chosen][row][kept] for x in (regions.features, regions.class_probs))
        weight = rank_weight(len(told), told.device)
        feature = weight * regression_loss(self.feature(told), features)
        label = weight * class_loss(self.label(told), probabilities, self.target)
        return Loss(feature + label, {"omvm_feature": feature.detach(), "omvm_class": label.detach()})
