"""A convolutional map read in a detector's boxes, then attention among the boxes (BriVL, Huo 2021, section 3.2)."""

from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.layers.blocks import PostNormBlock, init_transformer
from vlp.layers.boxes import sample_boxes
from vlp.layers.packing import Packing
from vlp.types import Batch, Stream
from vlp.vision.grid import frozen, grouped


class RoiGrid(nn.Module):
    """Pictures and the boxes of their regions -> Stream (P, 1 + R, D), the whole picture as a box first.

    A box is the mean of points x points samples of the map, projected and brought to unit length; the detector's own
    features are not read. BERT's blocks then let the boxes read each other. Pool it with `MeanPool`.
    """

    def __init__(
        self,
        *,
        name: str,
        image_size: int,
        width: int | None = None,
        layers: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        points: int = 6,
        dropout: float = 0.1,
        norm: Literal["frozen", "group"] = "frozen",
        pretrained: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        made: Any = timm.create_model(name, pretrained=pretrained, num_classes=0, **(options or {}))
        self.network = grouped(made) if norm == "group" else frozen(made)
        self.image_size = image_size
        self.width = width or int(made.num_features)
        self.points = points
        self.checkpointing = False
        self.projection = nn.Linear(int(made.num_features), self.width)
        self.layers = nn.ModuleList(
            PostNormBlock(width=self.width, heads=heads, hidden=hidden or 4 * self.width, dropout=dropout)
            for _ in range(layers)
        )
        for part in (self.projection, self.layers):
            init_transformer(part, self.width)

    def forward(self, batch: Batch) -> Stream:
        """Raises ValueError for a batch without pictures or without regions."""
        if batch.image is None or batch.regions is None:
            raise ValueError(
                "the grid is read in boxes: this batch lacks pictures or regions; set data.use_regions=true"
            )
        boxes, here = batch.regions.boxes, batch.regions.mask
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=boxes.dtype, device=boxes.device).expand(len(boxes), 1, 4)
        found = sample_boxes(self.network.forward_features(batch.image), torch.cat([whole, boxes], 1), self.points)
        mask = torch.cat([torch.ones_like(here[:, :1]), here], 1)
        rows = Packing.of(mask)
        tokens = rows.pack(F.normalize(self.projection(found), dim=-1))
        for layer in self.layers:
            tokens = self._run(layer, tokens, rows)
        return Stream(rows.restore(tokens, mask.shape[1]), mask)

    def _run(self, layer: nn.Module, tokens: Tensor, rows: Packing) -> Tensor:
        if self.checkpointing and self.training:
            out: Tensor = checkpoint(layer, tokens, rows, use_reentrant=False)
            return out
        out = layer(tokens, rows)
        return out

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the layers in the backward pass instead of keeping their activations."""
        self.checkpointing = enabled

    def adapt_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Nothing hangs on a picture's size."""
