"""Word-patch alignment by optimal transport (UNITER, Chen 2020, section 3.3; ViLT, Kim 2021, section 4.1)."""

import torch
from torch import Tensor, nn

from vlp.layers.transport import transport_distance
from vlp.types import Loss
from vlp.view import Negatives, View


class WordPatchAlignment(nn.Module):
    """Transport distance of matched pairs down, of the others up: weight * (sum d(pos) - sum d(neg)) / rows.

    Needs a fusion that gives back image tokens, and reads the pass of the ITM objective with equal `negatives`.
    [CLS], [SEP] and the first `skip` image tokens (1: a class token; 0: regions) take no part.
    """

    whole_rows = True  # the view then computes every token of the matching pass

    def __init__(
        self, *, negatives: Negatives, weight: float = 0.1, beta: float = 0.5, iterations: int = 50, skip: int = 1
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.weight = weight
        self.beta = beta
        self.iterations = iterations
        self.skip = skip

    def forward(self, view: View) -> Loss:
        """Signed mean of the transport distances over the rows."""
        rows, _, fused, _ = view.matched(self.negatives)
        if fused is None or fused.image is None:
            raise ValueError("word-patch alignment needs a fusion that gives image tokens (OneStream)")
        words = (view.batch.word_ids >= 0).index_select(0, rows.text)
        patches = fused.image.mask[:, self.skip :]
        distance = transport_distance(
            fused.text.tokens,
            fused.image.tokens[:, self.skip :],
            words,
            patches,
            beta=self.beta,
            iterations=self.iterations,
        )
        value = alignment_loss(distance, rows.label, rows.weight)
        return Loss(value, {"wpa": value.detach(), "wpa_distance": distance[rows.label == 1].mean().detach()})


def alignment_loss(distance: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """(sum of matched - sum of unmatched distances) / rows, rows of weight 0 left out."""
    sign = torch.where(label == 1, 1.0, -1.0) * weight
    return (sign * distance).sum() / weight.sum().clamp(min=1)
