"""Detector regions as image tokens: feature and box embedded and summed (UNITER, Chen 2020, section 3.1)."""

import torch
from torch import Tensor, nn

from vlp.layers.blocks import init_transformer
from vlp.types import Batch, Stream

FORMS = (0, 4, 5, 6, 7)  # VisualBERT reads no box, ViLBERT and Unicoder-VL 5 numbers of one, Oscar 6, UNITER 7


def box_numbers(boxes: Tensor, form: int) -> Tensor:
    """(..., 4) shares x1 y1 x2 y2 -> (..., form): then area (5); or width and height (6), and area (7)."""
    width, height = boxes[..., 2:3] - boxes[..., 0:1], boxes[..., 3:4] - boxes[..., 1:2]
    more = {4: [], 5: [width * height], 6: [width, height], 7: [width, height, width * height]}[form]
    return torch.cat([boxes, *more], dim=-1)


class RegionEmbedding(nn.Module):
    """`Batch.regions` -> Stream (P, R, D): norm(norm(W feature) + norm(V box)). No class token, no order.

    A region that an objective hides (`Regions.hidden`) shows a learned vector in place of its feature; its box stays.
    `box_form` 0 leaves the box out; `hides=False` the vector, where no objective hides regions.
    """

    def __init__(
        self,
        *,
        feature_width: int = 2048,
        width: int = 768,
        box_form: int = 7,
        dropout: float = 0.1,
        hides: bool = True,
    ) -> None:
        super().__init__()
        if box_form not in FORMS:
            raise ValueError(f"box_form {box_form} is none of {FORMS}")
        self.width = width
        self.feature_width = feature_width
        self.box_form = box_form
        self.feature = nn.Linear(feature_width, width)
        self.feature_norm = nn.LayerNorm(width, eps=1e-12)
        if box_form:
            self.box = nn.Linear(box_form, width)
            self.box_norm = nn.LayerNorm(width, eps=1e-12)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        init_transformer(self, width)
        if hides:
            self.hidden = nn.Parameter(torch.zeros(feature_width))

    def forward(self, batch: Batch) -> Stream:
        """Raises ValueError for a batch without regions, or with features of another width."""
        regions = batch.regions
        if regions is None:
            raise ValueError("this batch has no regions; set data.use_regions=true and give shards that hold them")
        if regions.features.shape[-1] != self.feature_width:
            raise ValueError(f"regions are {regions.features.shape[-1]} wide, the model takes {self.feature_width}")
        features = regions.features
        if regions.hidden is not None:
            features = torch.where(regions.hidden[..., None], self.hidden.to(features.dtype), features)
        embedded = self.feature_norm(self.feature(features))
        if self.box_form:
            embedded = embedded + self.box_norm(self.box(box_numbers(regions.boxes, self.box_form)))
        tokens: Tensor = self.dropout(self.norm(embedded))
        return Stream(tokens, regions.mask)

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Nothing hangs on a picture's size."""
