"""Contrast of pictures with captions, rewritten ones among them (UNIMO, Li 2021, section 2.2: cross-modal contrast)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers import draws
from vlp.layers.blocks import init_transformer
from vlp.layers.gather import gather
from vlp.objectives import negatives
from vlp.similarity.matching import MatchingHead
from vlp.types import Graph, Loss
from vlp.view import View


def rewritten(
    ids: Tensor, mask: Tensor, graph: Graph, other: Tensor, place: Tensor, pick: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Captions (ids and mask, (B, L)) with one node's pieces replaced by one of the same kind, and (B,) bool whether
    that could be.

    `other` (B,) is the caption that the word comes from; `place` and `pick` (B, L) are draws in [0, 1): of the pieces
    of nodes, the one with the largest `place` tells the node, and of the other caption's pieces of that kind that say
    something else, the one with the largest `pick` stands for the node. An object, attribute or relation so becomes
    wrong, and the sentence stays one.
    """
    kinds, words = graph.kind[other], ids[other]
    fits = (graph.kind[:, :, None] == kinds[:, None, :]) & (graph.kind > 0)[:, :, None]
    fits = fits & (ids[:, :, None] != words[:, None, :])  # (B, L, L): may piece j of the other stand at place i?
    first = place.masked_fill(~fits.any(2), -1.0).argmax(1)
    rows = torch.arange(len(ids), device=ids.device)
    word = words[rows, pick.masked_fill(~fits[rows, first], -1.0).argmax(1)]
    node = (graph.node == graph.node[rows, first][:, None]) & (graph.node >= 0)
    found = fits.flatten(1).any(1)
    node = node & found[:, None]
    kept = torch.zeros_like(node)
    kept[rows, first] = True
    return torch.where(node, word[:, None], ids), mask & (kept | ~node), found


def several_positives(scores: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
    """Mean over B of -log(sum over positives of exp / sum over all candidates of exp), (B, K), of the allowed ones."""
    scores = scores.float().masked_fill(~allowed, float("-inf"))
    return (scores.logsumexp(1) - scores.masked_fill(~positive, float("-inf")).logsumexp(1)).mean()


class CrossModalContrast(nn.Module):
    """A pair is to stand out among: its picture with `rewrites` rewritten captions, each read with the picture by the
    fusion; and its picture with other captions, its caption with other pictures, of all ranks, each side read by the
    fusion alone. Other captions and pictures of one image id are positives.

    Needs graphs, the similarity "itm", whose log-odds score what is read together, and `OneStream`. Sides read alone
    are compared by the cosine of two projections over `temperature`.
    """

    def __init__(
        self,
        *,
        width: int,
        embed_dim: int = 256,
        rewrites: int = 2,
        temperature: float = 0.07,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.rewrites = rewrites
        self.temperature = temperature
        self.weight = weight
        self.image = nn.Linear(width, embed_dim)
        self.text = nn.Linear(width, embed_dim)
        init_transformer(self, width)

    def forward(self, view: View) -> Loss:
        """The contrast, and how often a pair scores above all of its rewritten captions."""
        together, there = self._together(view)
        apart, same, own = self._apart(view)
        scores = torch.cat([together, apart], 1)
        positive = torch.cat([torch.zeros_like(there), same & ~own], 1)
        positive[:, 0] = True
        value = several_positives(scores, positive, torch.cat([there, ~own], 1))
        best = together.masked_fill(~there, float("-inf")).argmax(1) == 0
        return Loss(value, {"cmcl": value.detach(), "cmcl_accuracy": best.float().mean()})

    def _together(self, view: View) -> tuple[Tensor, Tensor]:
        """(B, 1 + rewrites) log-odds of each picture with its caption and with rewritten ones, and which there are."""
        batch, head = view.batch, cast(MatchingHead, view.model.similarities["itm"])
        if batch.graph is None:
            raise ValueError("captions are rewritten along their scene graphs; set data.use_graph=true")
        size, device = len(batch), batch.text_ids.device
        texts, there = [view.text], [torch.ones(size, dtype=torch.bool, device=device)]
        for _ in range(self.rewrites):
            other, allowed = negatives.sample_negatives(torch.zeros(size, size, device=device), batch.image_id)
            place, pick = (draws.uniform(*batch.text_ids.shape, device=device) for _ in range(2))
            ids, mask, found = rewritten(batch.text_ids, batch.text_mask, batch.graph, other, place, pick)
            texts.append(view.model.encode_text(ids, mask))
            there.append(found & allowed)
        row = torch.arange(size, device=device) if batch.image_row is None else batch.image_row
        scores = [head.log_odds(view.model.summarize(text, view.prepared, row)) for text in texts]
        return torch.stack(scores, 1), torch.stack(there, 1)

    def _apart(self, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 2 W B) cosines over the temperature of pictures with captions and captions with pictures, which are of
        one image id, and which are the pair itself."""
        model, row, ids = view.model, view.batch.image_row, view.batch.image_id
        image = F.normalize(self.image(model.summarize(view.text_nothing, view.prepared, row)), dim=-1)
        text = F.normalize(self.text(model.summarize(view.text, view.prepared_nothing, row)), dim=-1)
        scores = torch.cat([image @ gather(text).T, text @ gather(image).T], 1) / self.temperature
        start = torch.distributed.get_rank() * len(ids) if torch.distributed.is_initialized() else 0
        same = ids[:, None] == gather(ids)
        own = torch.zeros_like(same)
        own[torch.arange(len(ids)), start + torch.arange(len(ids))] = True
        return scores, same.repeat(1, 2), own.repeat(1, 2)
