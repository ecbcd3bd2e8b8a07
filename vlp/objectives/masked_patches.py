"""Masked patches and cells: what does a hidden part of the picture look like? (FashionBERT, Gao 2020; PIM, Xue 2021)"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers import draws
from vlp.layers.blocks import init_transformer
from vlp.layers.draws import some
from vlp.layers.gather import rank_weight
from vlp.types import Loss
from vlp.view import View


def softmax_divergence(predicted: Tensor, features: Tensor) -> Tensor:
    """KL(softmax(features) || softmax(predicted)) over (M, F) rows, their mean: FashionBERT's masked patch loss."""
    wanted, log_predicted = F.log_softmax(features.float(), -1), F.log_softmax(predicted.float(), -1)
    return (wanted.exp() * (wanted - log_predicted)).sum() / max(len(features), 1)


def most_attended(attention: Tensor, place: Tensor, count: int) -> Tensor:
    """(P, N, N) attention -> (P, N) bool: the cell `place` (P,) of each picture and the `count` others that it attends
    to most, which would tell what it is (PIM, section 3.3)."""
    row = attention.gather(1, place[:, None, None].expand(-1, 1, attention.shape[2]))[:, 0]
    chosen = row.scatter(1, place[:, None], float("inf")).topk(count + 1, dim=1).indices
    return torch.zeros_like(row, dtype=torch.bool).scatter(1, chosen, True)


class MaskedPatches(nn.Module):
    """Image tokens are hidden while the caption stays whole; a head on the fused tokens tells what they were.

    Needs a vision part that hides (`hide`) and gives `hidden_features(batch)` (P, N, F) as targets, and a
    fusion that gives back image tokens; tags or a class token in front of the N places are never hidden. `target`: "kl"
    between softmaxes, or "regression" (mean squared error to the feature, normalised). With `neighbours` one place of
    each picture is drawn, whatever the `probability`, and hidden with the so many others that it attends to most: the
    vision part then gives its attention too (`SwinParser`).
    """

    def __init__(
        self,
        *,
        width: int,
        feature_width: int,
        probability: float = 0.15,
        target: Literal["kl", "regression"] = "kl",
        neighbours: int = 0,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.probability = probability
        self.target = target
        self.weight = weight
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12), nn.Linear(width, feature_width)
        )
        init_transformer(self, width)

    def forward(self, view: View) -> Loss:
        """The loss over the hidden places of all ranks."""
        features, hidden = self._hidden(view)
        fused = view.fused_with(view.hiding(hidden))
        if fused.image is None:
            raise ValueError("masked patches need a fusion that gives image tokens (OneStream, CoAttention)")
        row = view.batch.image_row
        if row is not None:
            hidden, features = hidden[row], features[row]
        predicted, wanted = self.head(fused.image.tokens[:, -hidden.shape[1] :][hidden]), features[hidden]
        value = rank_weight(len(wanted), wanted.device) * self._loss(predicted, wanted)
        return Loss(value, {"mpm": value.detach()})

    @torch.no_grad()
    def _hidden(self, view: View) -> tuple[Tensor, Tensor]:
        """(P, N, F) features of all places, and (P, N) bool which are hidden."""
        vision: Any = view.model.vision
        features: Tensor = vision.hidden_features(view.batch)
        if not self.neighbours:
            return features, some(torch.ones_like(features[..., 0], dtype=torch.bool), self.probability)
        if view.attention is None:
            raise ValueError("neighbours are told by a SwinParser's attention on pictures; set neighbours=0")
        draw = draws.uniform(len(features), 1, device=features.device)[:, 0]
        return features, most_attended(view.attention, (draw * features.shape[1]).long(), self.neighbours)

    def _loss(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        if self.target == "kl":
            return softmax_divergence(predicted, wanted)
        normal = F.layer_norm(wanted.float(), wanted.shape[-1:])
        return F.mse_loss(predicted.float(), normal)
