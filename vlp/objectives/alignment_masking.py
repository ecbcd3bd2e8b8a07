"""Words and patches that are aligned are hidden first, one side at a time (Kaleido-BERT, Zhuge 2021, section 3.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.layers.boxes import cells_in
from vlp.objectives.graph_masking import drawn_nodes
from vlp.objectives.knowledge_masking import named_regions
from vlp.types import Batch, Graph


@dataclass(frozen=True, kw_only=True)
class AlignmentMasking:
    """Each word of a phrase that names one region is masked with `probability` while the picture stays whole; cells
    that the region covers are hidden first while the caption stays whole. So the hidden side is always to be told by
    the other. Words are drawn one by one, as the paper's pairs of a token and a patch are: what stays of a phrase tells
    which region is asked for.

    Alignment here is the data's: which region a phrase names. The paper takes it from a captioner's attention.
    """

    probability: float = 0.3

    def words(self, batch: Batch) -> Tensor:
        """(B, L) bool: the pieces of the words drawn."""
        return drawn_nodes(torch.where(_graph(batch).region >= 0, batch.word_ids, -1), self.probability)

    def cells(self, batch: Batch, side: int) -> Tensor:
        """(P, side * side) bool: the cells of a grid that overlap a region which a caption of the picture names."""
        graph, regions = _graph(batch), batch.regions
        if regions is None:
            raise ValueError("aligned patches need regions; set data.use_regions=true")
        named = named_regions(batch, regions, graph)
        return (cells_in(regions.boxes, side) & named[..., None]).any(1)


def _graph(batch: Batch) -> Graph:
    if batch.graph is None:
        raise ValueError("alignment of phrases and regions needs graphs; set data.use_graph=true")
    return batch.graph
