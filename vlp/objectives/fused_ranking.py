"""A fused pair above its rivals: how one-stream models are tuned (UNITER, Chen 2020; ViLT, Kim 2021, section 4.2)."""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.similarity.matching import MatchingHead
from vlp.types import Loss
from vlp.view import Negatives, View

Kind = Literal["hinge", "choice"]


def fused_hinges(own: Tensor, rivals: Tensor, there: Tensor, margin: float, hardest: int | None) -> Tensor:
    """(B,) log odds of pairs and (B, K) of their rivals -> (B,): mean hinge [margin + s(rival) - s(own)]+ of sigmoids s
    over the rivals that are `there`, or over the `hardest` of them (UNITER's ranking head)."""
    costs = (margin + torch.sigmoid(rivals) - torch.sigmoid(own)[:, None]).clamp(min=0).masked_fill(~there, 0.0)
    if hardest is not None:
        return costs.topk(min(hardest, costs.shape[1]), 1).values.mean(1)
    return costs.sum(1) / there.sum(1).clamp(min=1)


def choice_loss(own: Tensor, rivals: Tensor, there: Tensor) -> Tensor:
    """(B,): cross entropy of choosing the pair among itself and its rivals (ViLT's retrieval)."""
    scores = torch.cat([own[:, None], rivals.masked_fill(~there, float("-inf"))], 1)
    return -F.log_softmax(scores, 1)[:, 0]


class FusedRanking(nn.Module):
    """Needs the similarity "itm". `negatives` draws the rivals of each pair, which share one fused pass with it."""

    def __init__(
        self,
        *,
        negatives: Negatives,
        kind: Kind = "hinge",
        margin: float = 0.2,
        hardest: int | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.kind = kind
        self.margin = margin
        self.hardest = hardest
        self.weight = weight

    def forward(self, view: View) -> Loss:
        """Mean over the pairs, and how often the pair scores above all its rivals."""
        rows, _, _, summary = view.matched(self.negatives)
        odds = cast(MatchingHead, view.model.similarities["itm"]).log_odds(summary)
        # A policy's rows are the pairs, then as many rivals again for every draw, in the order of the pairs.
        own, *drawn = odds.view(-1, len(view.batch)).unbind(0)
        rivals, there = torch.stack(drawn, 1), rows.weight.view(-1, len(view.batch))[1:].T > 0
        if self.kind == "hinge":
            value = fused_hinges(own, rivals, there, self.margin, self.hardest).mean()
        else:
            value = choice_loss(own, rivals, there).mean()
        first = (own[:, None] > rivals.masked_fill(~there, float("-inf"))).all(1).float().mean()
        return Loss(value, {"fused_ranking": value.detach(), "ranked_first": first})
