"""Words and regions masked with what is linked to them (ROSITA, Cui 2021, section 3.3: structural masking)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.layers import draws
from vlp.objectives.graph_masking import ATTRIBUTE, OBJECT, RELATION, beside, drawn_nodes
from vlp.types import Batch, Graph, Regions


def overlaps(boxes: Tensor) -> Tensor:
    """(..., R, 4) corner boxes -> (..., R, R) intersection over union."""
    one, two = boxes[..., :, None, :], boxes[..., None, :, :]
    sides = (torch.minimum(one[..., 2:], two[..., 2:]) - torch.maximum(one[..., :2], two[..., :2])).clamp(min=0)
    inside, area = sides.prod(-1), (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return inside / (area[..., :, None] + area[..., None, :] - inside).clamp(min=1e-9)


def linked_words(graph: Graph, anchors: Tensor) -> Tensor:
    """(B, L) bool: attributes in the phrase of an object among `anchors` (B, L), and relations beside one."""
    same_phrase = (graph.phrase[:, :, None] == graph.phrase[:, None, :]) & (graph.phrase >= 0)[:, :, None]
    attributes = (graph.kind == ATTRIBUTE) & (same_phrase & anchors[:, None, :]).any(2)
    return attributes | ((graph.kind == RELATION) & beside(anchors, graph.kind == OBJECT))


def named_regions(batch: Batch, regions: Regions, graph: Graph) -> Tensor:
    """(P, R) bool: regions that a phrase of one of the picture's captions names."""
    row = torch.arange(len(batch), device=graph.region.device) if batch.image_row is None else batch.image_row
    number = regions.mask.shape[1]
    known = (graph.region >= 0) & (graph.region < number)
    found = torch.zeros_like(regions.mask).flatten()
    found[(row[:, None] * number + graph.region)[known]] = True
    return found.view_as(regions.mask) & regions.mask


@dataclass(frozen=True, kw_only=True)
class KnowledgeMasking:
    """An anchor is masked with its knowledge of the same modality, so that only the other one tells it.

    Words: each object of the graph is an anchor with probability `objects`; then each attribute of it and relation
    beside it is masked with `links`. Regions: each is an anchor with `regions`, one that a phrase names with `named`;
    with `neighbours` all regions that overlap an anchor by an IoU above `overlap` are masked too.
    """

    objects: float = 0.5
    links: float = 0.5
    regions: float = 0.15
    named: float = 0.3
    neighbours: float = 0.3
    overlap: float = 0.2

    def words(self, batch: Batch) -> Tensor:
        """(B, L) bool pieces."""
        graph = _graph(batch)
        anchors = drawn_nodes(graph.node, self.objects) & (graph.kind == OBJECT)
        return anchors | (linked_words(graph, anchors) & drawn_nodes(graph.node, self.links))

    def hidden(self, batch: Batch) -> Tensor:
        """(P, R) bool regions, at least one of each picture that has any."""
        regions, graph = batch.regions, _graph(batch)
        if regions is None:
            raise ValueError("masking regions with their neighbours needs regions; set data.use_regions=true")
        share = torch.where(named_regions(batch, regions, graph), self.named, self.regions)
        draw = draws.uniform(*regions.mask.shape, device=share.device).masked_fill(~regions.mask, 2.0)
        anchors = ((draw < share) | (draw == draw.min(1, keepdim=True).values)) & regions.mask
        spreads = anchors & (draws.uniform(*regions.mask.shape, device=share.device) < self.neighbours)
        near = (overlaps(regions.boxes) > self.overlap) & spreads[:, :, None]
        return (anchors | near.any(1)) & regions.mask


def _graph(batch: Batch) -> Graph:
    if batch.graph is None:
        raise ValueError("masking along the scene graph needs graphs; set data.use_graph=true")
    return batch.graph
