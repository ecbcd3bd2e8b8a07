"""Phrases find regions as like as their words are to the regions' names (KD-VLP, Liu 2022, section 3.3)."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.boxes import sample_boxes
from vlp.layers.gather import rank_weight
from vlp.objectives.object_masking import as_map
from vlp.types import Graph, Loss, Regions
from vlp.view import Negatives, View


def members(phrase: Tensor) -> Tensor:
    """(B, L) numbers of phrases, -1 none -> (B, F, L) float: 1 / pieces at the pieces of each phrase, else 0."""
    numbers = torch.arange(max(int(phrase.max()) + 1, 1), device=phrase.device)
    inside = (phrase[:, None, :] == numbers[None, :, None]).float()
    return inside / inside.sum(2, keepdim=True).clamp(min=1)


def agreement_loss(found: Tensor, wanted: Tensor, phrases: Tensor, regions: Tensor, scale: float) -> Tensor:
    """KL(softmax(scale * wanted) || softmax(scale * found)) over the regions present (B, R), mean over the phrases
    present (B, F) that have a region; similarities are (B, F, R)."""
    away = ~regions[:, None, :]
    target = F.log_softmax((scale * wanted).masked_fill(away, float("-inf")), dim=2).masked_fill(away, 0.0)
    log_found = F.log_softmax((scale * found).masked_fill(away, float("-inf")), dim=2).masked_fill(away, 0.0)
    each = (target.exp().masked_fill(away, 0.0) * (target - log_found)).sum(2)
    here = phrases & regions.any(1, keepdim=True)
    return each.masked_fill(~here, 0.0).sum() / here.sum().clamp(min=1)


class PhraseRegion(nn.Module):
    """The cosines of a phrase's fused words with the fused cells in each region's box are to be distributed as those of
    the phrase's word embeddings with the embedding of the region's name, its pieces averaged.

    `labels` are the word pieces of each detector class's name. Word embeddings as targets get no gradient. Reads the
    pass of the ITM objective with equal `negatives`. Needs `GridCNN`, regions, captions' graphs, and a fusion that
    gives back image tokens.
    """

    whole_rows = True  # the view then computes every token of the matching pass

    def __init__(
        self,
        *,
        negatives: Negatives,
        labels: Sequence[Sequence[int]] = (),
        points: int = 3,
        temperature: float = 0.1,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.labels = [list(pieces) for pieces in labels]
        self.points = points
        self.temperature = temperature
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """The divergence over all ranks' phrases. Raises ValueError with fewer names than the regions have classes."""
        batch, graph, regions = view.batch, cast(Graph, view.batch.graph), cast(Regions, view.batch.regions)
        if len(self.labels) < regions.class_probs.shape[-1]:
            raise ValueError(
                f"{len(self.labels)} class names for {regions.class_probs.shape[-1]} classes; set this objective's "
                "labels to the word pieces of each class's name"
            )
        _, _, fused, _ = view.matched(self.negatives)
        if fused is None or fused.image is None:
            raise ValueError("phrases find regions in a fusion that gives image tokens (OneStream)")
        size, words = len(batch), cast(Any, view.model.text).embeddings.word.weight.detach()
        pieces = members(graph.phrase).to(fused.text.tokens.dtype)
        row = torch.arange(size, device=words.device) if batch.image_row is None else batch.image_row
        grid = as_map(fused.image.tokens[:size], cast(Any, view.model.vision).grid)
        cells = sample_boxes(grid, regions.boxes[row], self.points)
        found = cosines(pieces @ fused.text.tokens[:size], cells)
        wanted = cosines(pieces @ words[batch.text_ids], self._names(words)[regions.class_probs.argmax(2)][row])
        phrases, mask = pieces.any(2), regions.mask[row]
        weight = rank_weight((phrases & mask.any(1, keepdim=True)).sum(), words.device)  # captions differ in phrases
        value = weight * agreement_loss(found, wanted, phrases, mask, 1 / self.temperature)
        return Loss(value, {"pra": value.detach()})

    def _names(self, words: Tensor) -> Tensor:
        """(K, D) embeddings of the classes' names."""
        return torch.stack([words[torch.tensor(pieces, device=words.device)].mean(0) for pieces in self.labels])


def cosines(one: Tensor, two: Tensor) -> Tensor:
    """(B, F, D) and (B, R, D) -> (B, F, R)."""
    return F.normalize(one, dim=-1) @ F.normalize(two, dim=-1).transpose(1, 2)
