"""Where in the picture is what the phrase names? (X-VLM, Zeng 2022, section 3.3, equations 6-7)"""

from typing import cast

import torch
from torch import Tensor, nn

from vlp.layers import draws
from vlp.layers.blocks import init_transformer
from vlp.layers.gather import rank_weight
from vlp.types import Graph, Loss, Regions, Stream
from vlp.view import View


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> x1 y1 x2 y2."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def centred(boxes: Tensor) -> Tensor:
    """(..., 4) x1 y1 x2 y2 -> centre x, centre y, width, height, which L1 compares (DETR and X-VLM)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def generalized_iou(one: Tensor, two: Tensor) -> Tensor:
    """(..., 4) corner boxes -> (...) intersection over union less the share of the hull that neither covers."""
    inside = (
        (torch.minimum(one[..., 2:], two[..., 2:]) - torch.maximum(one[..., :2], two[..., :2])).clamp(min=0).prod(-1)
    )
    hull = (torch.maximum(one[..., 2:], two[..., 2:]) - torch.minimum(one[..., :2], two[..., :2])).clamp(min=0).prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (two[..., 2:] - two[..., :2]).prod(-1) - inside
    return inside / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def draw_phrases(graph: Graph, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Up to `count` phrases of each caption whose region is known, drawn: (M,) rows of captions, (M,) rows of regions,
    (M, L) bool their pieces. A caption without such a phrase is there once, with region -1 and no pieces."""
    numbers = torch.arange(max(int(graph.phrase.max()) + 1, 1), device=graph.phrase.device)
    inside = graph.phrase[:, None] == numbers[:, None]  # (B, F, L)
    region = graph.region[:, None].masked_fill(~inside, -1).amax(2)
    there = region >= 0
    draw = draws.uniform(*there.shape, device=there.device).masked_fill(~there, -1.0)
    kept = there & (draw.argsort(1, descending=True).argsort(1) < count)
    kept[:, 0] |= ~there.any(1)
    row, phrase = kept.nonzero(as_tuple=True)
    found = region[row, phrase]
    return row, found, inside[row, phrase] & (found >= 0)[:, None]


def box_loss(told: Tensor, wanted: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 7: the sum of the four differences of told (B, 4), centres and sizes, from wanted (B, 4), corners, and
    1 - GIoU; mean over the `known` (B,) bool rows, and their mean GIoU."""
    overlap = generalized_iou(corners(told), wanted)
    each = (told - centred(wanted)).abs().sum(1) + 1 - overlap
    rows = known.sum().clamp(min=1)
    value, mean_overlap = (torch.where(known, row, 0.0).sum() / rows for row in (each, overlap))
    return value, mean_overlap


class PhraseBox(nn.Module):
    """A phrase of the caption, alone, reads the whole picture; a head on its summary tells the box, by L1 and GIoU.

    Up to `phrases` of each caption are drawn (the paper's images bring up to five regions to a step), each a short row
    of the text part and the fusion. Needs a fusion, regions and captions' graphs in the data. Captions without a phrase
    of one region weigh nothing.
    """

    def __init__(self, *, width: int, phrases: int = 5, weight: float = 1.0) -> None:
        super().__init__()
        if phrases < 1:
            raise ValueError(f"phrases={phrases}: a caption is asked for one phrase at least")
        self.phrases = phrases
        self.weight = weight
        self.box = nn.Sequential(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, 4)
        )
        init_transformer(self, width)

    def forward(self, view: View) -> Loss:
        """L1 + 1 - GIoU, and the mean GIoU, over such phrases of all ranks."""
        batch, graph, regions = view.batch, cast(Graph, view.batch.graph), cast(Regions, view.batch.regions)
        row, region, pieces = draw_phrases(graph, self.phrases)
        first = torch.zeros_like(pieces)
        first[:, 0] = True
        text: Stream = view.model.encode_text(batch.text_ids[row], (pieces | first) & batch.text_mask[row])
        picture = row if batch.image_row is None else batch.image_row[row]
        summary = view.model.summarize(text, view.prepared, picture)
        known = (region >= 0) & (region < regions.boxes.shape[1])
        wanted = regions.boxes[picture, torch.where(known, region, 0)]
        weight = rank_weight(known.sum(), summary.device)
        value, overlap = (weight * mean for mean in box_loss(self.box(summary).float().sigmoid(), wanted, known))
        return Loss(value, {"box": value.detach(), "box_giou": overlap.detach()})
