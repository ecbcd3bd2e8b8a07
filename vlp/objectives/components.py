"""Every part of a caption is to find the picture: objects, attributed objects, relations (Unified-VSE, Wu 2019)."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.chain import Chain
from vlp.layers.gather import rank_weight
from vlp.objectives.ranking import violations
from vlp.objectives.scored import Sides, sides
from vlp.similarity.vector import VectorSimilarity
from vlp.types import KINDS, Graph, Loss, Stream
from vlp.view import View

LEVELS = ("object", "phrase", "relation")


def component_means(tokens: Stream, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L, E) tokens and (B, L) labels, -1 none -> the mean of the tokens of each label of each caption, (M, E), and
    its caption (M,)."""
    here = (labels >= 0) & tokens.mask
    captions, places = here.nonzero(as_tuple=True)
    keys = captions * (int(labels.max()) + 1) + labels[captions, places]
    distinct, group = keys.unique(return_inverse=True)
    total = tokens.tokens.new_zeros(len(distinct), tokens.tokens.shape[2])
    total = total.index_add(0, group, tokens.tokens[captions, places])
    count = torch.bincount(group, minlength=len(distinct))[:, None].clamp(min=1)
    owner = torch.zeros_like(distinct).index_copy(0, group, captions)
    return total / count, owner


def labels_of(graph: Graph, level: str) -> Tensor:
    """(B, L): which component of a level each piece belongs to; -1 none."""
    if level == "phrase":
        return graph.phrase
    return graph.node.masked_fill(graph.kind != KINDS.index(level), -1)


class ComponentRanking(nn.Module):
    """Needs a vector similarity whose text head is a chain that ends in a pooling, and `data.use_graph`.

    The mean of a component's words takes the place of the caption's vector and ranks its own picture above the hardest
    other of all ranks. The published model parses captions; here shards bring the parse (`Batch.graph`). Mean over the
    components of each level of all ranks, then over the levels.
    """

    def __init__(self, *, similarity: str = "itc", margin: float = 0.2, weight: float = 1.0) -> None:
        super().__init__()
        self.similarity = similarity
        self.margin = margin
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Raises ValueError for a batch without a graph."""
        if view.batch.graph is None:
            raise ValueError("components need what a caption's words speak of; set data.use_graph=true")
        match: Any = cast(VectorSimilarity, view.model.similarities[self.similarity])
        words = cast(Stream, cast(Chain, match.text).before_last(view.text))
        pairs = sides(view, match)
        found = [self._level(component_means(words, labels_of(view.batch.graph, level)), pairs) for level in LEVELS]
        value = torch.stack(found).mean()
        return Loss(value, {"components": value.detach()})

    def _level(self, components: tuple[Tensor, Tensor], pairs: Sides) -> Tensor:
        vectors, owner = F.normalize(components[0], dim=1), components[1]
        scores = vectors @ pairs.images.tokens[:, 0].T
        own = scores.gather(1, pairs.own_image[owner][:, None])[:, 0]
        hinges = violations(scores, own, pairs.other_images[owner], self.margin)
        return rank_weight(len(hinges), hinges.device) * hinges.sum() / max(len(hinges), 1)
