"""Detector features as they are, one token a region, for heads that bring their own layers (SCAN, VSRN, ...)."""

import torch
from torch import Tensor, nn

from vlp.types import Batch, Stream
from vlp.vision.regions import FORMS, box_numbers


class RegionFeatures(nn.Module):
    """`Batch.regions` -> Stream (P, R, F), or (P, R, F + n) with `box_form` n numbers of each box beside the feature.

    The papers of bottom-up features read no boxes; relations in space cannot be told without.
    """

    def __init__(self, *, feature_width: int = 2048, box_form: int = 0) -> None:
        super().__init__()
        if box_form not in FORMS:
            raise ValueError(f"box_form {box_form} is none of {FORMS}")
        self.feature_width = feature_width
        self.box_form = box_form
        self.width = feature_width + box_form

    def forward(self, batch: Batch) -> Stream:
        """Raises ValueError for a batch without regions, or with features of another width."""
        regions = batch.regions
        if regions is None:
            raise ValueError("this batch has no regions; set data.use_regions=true and give shards that hold them")
        if regions.features.shape[-1] != self.feature_width:
            raise ValueError(f"regions are {regions.features.shape[-1]} wide, the model takes {self.feature_width}")
        tokens = regions.features
        if self.box_form:
            tokens = torch.cat([tokens, box_numbers(regions.boxes, self.box_form).to(tokens.dtype)], dim=-1)
        return Stream(tokens, regions.mask)

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Nothing hangs on a picture's size."""
