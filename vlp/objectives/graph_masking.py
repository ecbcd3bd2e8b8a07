"""Words masked along the caption's scene graph (ERNIE-ViL, Yu 2021, section 3.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.layers import draws
from vlp.types import KINDS, Batch, Graph

OBJECT, ATTRIBUTE, RELATION = (KINDS.index(kind) for kind in ("object", "attribute", "relation"))


def drawn_nodes(node: Tensor, probability: float) -> Tensor:
    """(B, L) numbers of nodes -> (B, L) bool: the pieces of nodes that are drawn, each node with `probability`."""
    first = (node[:, :, None] == node[:, None, :]).long().argmax(2)  # where a node's first piece stands
    draw = draws.uniform(*node.shape, device=node.device).gather(1, first)
    return (draw < probability) & (node >= 0)


def beside(marked: Tensor, there: Tensor) -> Tensor:
    """(B, L) bool: whether the nearest piece `there` to the left, or to the right, is `marked`."""
    return _last(marked, there) | _last(marked.flip(1), there.flip(1)).flip(1)


def _last(marked: Tensor, there: Tensor) -> Tensor:
    places = torch.arange(there.shape[1], device=there.device).expand_as(there)
    last = torch.where(there, places, -1).cummax(1).values
    return marked.gather(1, last.clamp(min=0)) & (last >= 0)


@dataclass(frozen=True, kw_only=True)
class GraphMasking:
    """Each object, attribute and relation of the graph is masked whole, with `probability`.

    What it is to be told from stays: an attribute is not masked beside the object of its phrase, nor a relation beside
    an object that it joins (the nearest one on either side, since captions tell a relation between its objects).
    """

    probability: float = 0.3

    def words(self, batch: Batch) -> Tensor:
        """(B, L) bool pieces. Raises ValueError for a batch without graphs."""
        if batch.graph is None:
            raise ValueError("masking along the scene graph needs graphs; set data.use_graph=true")
        return graph_positions(batch.graph, drawn_nodes(batch.graph.node, self.probability))


def graph_positions(graph: Graph, drawn: Tensor) -> Tensor:
    """(B, L) bool pieces of drawn nodes -> those of them that are masked."""
    objects = (graph.kind == OBJECT) & drawn
    same_phrase = (graph.phrase[:, :, None] == graph.phrase[:, None, :]) & (graph.phrase >= 0)[:, :, None]
    object_masked = (same_phrase & objects[:, None, :]).any(2)
    attributes = (graph.kind == ATTRIBUTE) & drawn & ~object_masked
    relations = (graph.kind == RELATION) & drawn & ~beside(objects, graph.kind == OBJECT)
    return objects | attributes | relations
