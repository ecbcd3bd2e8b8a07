"""Word-patch alignment by optimal transport (UNITER, Chen 2020, section 3.3; ViLT, Kim 2021, section 4.1)."""

import torch
from torch import Tensor, nn

from vlp.layers.gather import rank_weight
from vlp.layers.transport import transport_distance
from vlp.types import Loss
from vlp.view import Negatives, View


class WordPatchAlignment(nn.Module):
    """Transport distance of matched pairs down, of the others up: weight * (sum d(pos) - sum d(neg)) / rows.

    Reads the rows of the ITM objective with equal `negatives`. [CLS], [SEP] and the first `skip` image tokens (1: a
    class token; 0: regions) take no part. As published the tokens are those of the fused pass, for which the fusion
    must give back image tokens. `fused=False` compares them as they enter the fusion, where each knows of itself alone:
    fused tokens can all turn one way where a pair fits, which serves the loss as well and points nowhere.
    """

    def __init__(
        self,
        *,
        negatives: Negatives,
        weight: float = 0.1,
        beta: float = 0.5,
        iterations: int = 50,
        skip: int = 1,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.weight = weight
        self.beta = beta
        self.iterations = iterations
        self.skip = skip
        self.fused = fused
        self.whole_rows = fused  # the view then computes every token of the matching pass

    def forward(self, view: View) -> Loss:
        """Signed mean of the transport distances over the rows."""
        rows, text, fused, _ = view.matched(self.negatives)
        if self.fused:
            if fused is None or fused.image is None:
                raise ValueError("word-patch alignment of fused tokens needs a fusion that gives them (OneStream)")
            text, image = fused.text, fused.image
        else:
            image = view.image.select(view.pictures(rows.image))
        distance = transport_distance(
            text.tokens,
            image.tokens[:, self.skip :],
            (view.batch.word_ids >= 0).index_select(0, rows.text),
            image.mask[:, self.skip :],
            beta=self.beta,
            iterations=self.iterations,
        )
        weight = rank_weight(rows.weight.sum(), distance.device)
        value = weight * alignment_loss(distance, rows.label, rows.weight)
        return Loss(value, {"wpa": value.detach(), "wpa_distance": distance[rows.label == 1].mean().detach()})


def alignment_loss(distance: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """(sum of matched - sum of unmatched distances) / rows, rows of weight 0 left out."""
    sign = torch.where(label == 1, 1.0, -1.0) * weight
    return (sign * distance).sum() / weight.sum().clamp(min=1)
