"""Is this pair a pair? Binary cross entropy over the pairs of a batch (PCME, PCME++, CAMP)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.objectives.ranking import violations
from vlp.objectives.scored import Sides, sides, two_passes
from vlp.types import Loss
from vlp.view import View

Pairs = Literal["all", "hardest"]


def all_pairs_loss(scores: Tensor, positive: Tensor) -> Tensor:
    """(B, K) log odds -> (B,): the mean over the candidates of -log p of the positives and -log(1 - p) of the others
    (PCME, Chun 2021, equation 3, as a mean)."""
    return -F.logsigmoid(torch.where(positive, scores, -scores)).mean(1)


def hardest_pairs_loss(scores: Tensor, own: Tensor, rival: Tensor) -> Tensor:
    """(B, K) log odds -> (B,): -log p of the own pair - log(1 - p) of the hardest rival (CAMP, Wang 2019, eq. 12)."""
    hardest = scores.masked_fill(~rival, float("-inf")).amax(1)
    return -F.logsigmoid(own) + torch.where(rival.any(1), F.softplus(hardest), torch.zeros_like(own))


def pseudo_positive_loss(scores: Tensor, own: Tensor, rival: Tensor) -> Tensor:
    """(B,): rivals that score no less than the own pair counted as positives (PCME++, Chun 2024, section 3.3)."""
    return all_pairs_loss(scores, ~rival | (scores >= own[:, None]).detach())


class PairLoss(nn.Module):
    """Needs a similarity whose scores are log odds. Both directions, mean over the pairs of all ranks' batches.

    `pairs`: every pair of the batch, or each pair and its hardest rivals. `pseudo` weighs the pseudo-positive term.
    `two_pass` scores all pairs without gradient, then the pairs and their hardest rivals again (`scored.two_passes`).
    The first `easy_steps` steps rank instead: each pair's probability above those of all rivals by 0.2 (`Ranking`), as
    CAMP's first stage does; from a beginning that tells nothing apart cross entropy leads to one answer for all pairs.
    """

    steps: Tensor

    def __init__(
        self,
        *,
        similarity: str = "match",
        pairs: Pairs = "all",
        pseudo: float = 0.0,
        easy_steps: int = 0,
        two_pass: bool = False,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if two_pass and (pairs != "hardest" or pseudo):
            raise ValueError("two passes pay for the hardest rival alone; pairs='all' and pseudo need every score")
        self.similarity = similarity
        self.pairs = pairs
        self.pseudo = pseudo
        self.easy_steps = easy_steps
        self.two_pass = two_pass
        self.weight = weight
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, view: View) -> Loss:
        """Mean of both directions."""
        found = sides(view, self.similarity)
        if self.training and int(self.steps) < self.easy_steps:
            return _ranked(found)
        if self.two_pass:
            own, rivals = two_passes(found)
            value = sum(F.softplus(-own) + F.softplus(rival) * there for rival, there in rivals)
            total = torch.as_tensor(value).mean() / 2
            return Loss(total, {"pair": total.detach()})
        own, total = found.own, torch.zeros((), device=found.ids.device)
        for scores, rival in ((found.to_text, found.other_texts), (found.to_image, found.other_images)):
            rows = all_pairs_loss(scores, ~rival) if self.pairs == "all" else hardest_pairs_loss(scores, own, rival)
            if self.pseudo:
                rows = rows + self.pseudo * pseudo_positive_loss(scores, own, rival)
            total = total + rows.mean() / 2
        return Loss(total, {"pair": total.detach()})

    def after_step(self) -> None:
        """The beginning counts steps."""
        self.steps.add_(1)


def _ranked(found: Sides) -> Loss:
    own, total = found.own.sigmoid(), torch.zeros((), device=found.ids.device)
    for scores, rival in ((found.to_text, found.other_texts), (found.to_image, found.other_images)):
        total = total + violations(scores.sigmoid(), own, rival, margin=0.2, negatives="all").mean()
    return Loss(total, {"pair": total.detach()})
