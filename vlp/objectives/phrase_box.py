"""Where in the picture is what the phrase names? (X-VLM, Zeng 2022, section 3.3, equations 6-7)"""

from typing import cast

import torch
from torch import Tensor, nn

from vlp.layers.blocks import init_transformer
from vlp.layers.draws import some
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


def draw_phrase(graph: Graph) -> tuple[Tensor, Tensor]:
    """One phrase a caption whose region is known: (B,) rows of regions, (B, L) bool its pieces. Rows without: -1."""
    place = some(graph.region >= 0, 0.0)  # one piece, drawn
    has, first = place.any(1), place.long().argmax(1, keepdim=True)
    region = torch.where(has, graph.region.gather(1, first)[:, 0], -1)
    pieces = (graph.phrase == graph.phrase.gather(1, first)) & (graph.phrase >= 0) & has[:, None]
    return region, pieces


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

    Needs a fusion, regions and captions' graphs in the data. Captions without a phrase of one region weigh nothing.
    """

    def __init__(self, *, width: int, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.box = nn.Sequential(
            nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, 4)
        )
        init_transformer(self, width)

    def forward(self, view: View) -> Loss:
        """L1 + 1 - GIoU, and the mean GIoU, over captions of all ranks with such a phrase."""
        batch, graph, regions = view.batch, cast(Graph, view.batch.graph), cast(Regions, view.batch.regions)
        region, pieces = draw_phrase(graph)
        first = torch.zeros_like(pieces)
        first[:, 0] = True
        text: Stream = view.model.encode_text(batch.text_ids, (pieces | first) & batch.text_mask)
        summary = view.model.summarize(text, view.prepared, batch.image_row)
        boxes = regions.boxes if batch.image_row is None else regions.boxes[batch.image_row]
        wanted = boxes.gather(1, region.clamp(0, boxes.shape[1] - 1)[:, None, None].expand(-1, 1, 4))[:, 0]
        known = (region >= 0) & (region < boxes.shape[1])
        weight = rank_weight(known.sum(), summary.device)
        value, overlap = (weight * mean for mean in box_loss(self.box(summary).float().sigmoid(), wanted, known))
        return Loss(value, {"box": value.detach(), "box_giou": overlap.detach()})
