"""Kaleido-BERT's five aligned patch tasks (Zhuge 2021, section 3.3): each grid of patches is spoilt in its own way."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers import draws
from vlp.layers.blocks import init_transformer
from vlp.layers.gather import rank_weight
from vlp.objectives import negatives
from vlp.objectives.alignment_masking import AlignmentMasking
from vlp.objectives.masked_patches import softmax_divergence
from vlp.types import Batch, Loss
from vlp.view import View

GRIDS = (1, 2, 3, 4, 5)
STARTS = tuple(sum(g * g for g in GRIDS[:i]) for i in range(6))  # where each grid's patches stand among the 55
ORDERS = torch.tensor(list(permutations(range(4))))


def rotated(patches: Tensor, turns: Tensor) -> Tensor:
    """(P, 3, p, p) patches, each turned by `turns` (P,) quarters."""
    every = torch.stack([patches.rot90(k, (2, 3)) for k in range(4)], 1)
    return every[torch.arange(len(turns), device=turns.device), turns]


def shuffled(patches: Tensor, order: Tensor) -> Tensor:
    """(P, 4, ...) patches or their features, those of each picture in the permutation `order` (P,) of ORDERS."""
    places = ORDERS.to(order.device)[order]
    return patches[torch.arange(len(order), device=order.device)[:, None], places]


def replaced(patches: Tensor, place: Tensor, new: Tensor) -> Tensor:
    """(P, N, ...) patches or their features, the one at `place` (P,) replaced by `new` (P, ...)."""
    out = patches.clone()
    out[torch.arange(len(place), device=place.device), place] = new
    return out


def grey(patches: Tensor) -> Tensor:
    """(P, 3, p, p) without colour: the mean of the channels in each of them."""
    return patches.mean(1, keepdim=True).expand_as(patches)


class Kaleido(nn.Module):
    """Tell how the one patch was turned (4 ways); the order of the 2 x 2 (24); which of the 3 x 3 is another picture's
    (9); what a grey one of the 4 x 4 looked like, and an empty one of the 5 x 5, as features, by KL.

    Needs `PatchCNN(grids=(1, 2, 3, 4, 5))` and a fusion that gives back image tokens. One fused pass with the whole
    caption serves the five. With `masking` the grey and the empty patch are, where there are any, such that a phrase of
    the caption names what they show.
    """

    def __init__(
        self, *, width: int, feature_width: int, masking: AlignmentMasking | None = None, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.masking = masking
        self.weight = weight
        self.turn = nn.Linear(width, 4)
        self.order = nn.Linear(4 * width, len(ORDERS))
        self.stranger = nn.Linear(width, 1)
        self.feature = nn.ModuleList(_transform(width, feature_width) for _ in range(2))
        init_transformer(self, width)

    def forward(self, view: View) -> Loss:
        """Sum of the five losses, each the mean over the pairs."""
        vision: Any = view.model.vision
        if tuple(vision.grids) != GRIDS:
            raise ValueError(f"the patch tasks need grids {GRIDS}, not {tuple(vision.grids)}; set model.vision.grids")
        if view.batch.image is None:
            raise ValueError("the patch tasks spoil pictures, but this batch has features of them alone")
        with torch.no_grad():
            features = vision.hidden_features(view.batch)
            answers = self._answers(view.batch, len(features))
            spoilt = spoil(vision.patches(view.batch.image), features, answers, vision.features)
        fused = view.fused_with(vision.embed(spoilt))
        if fused.image is None:
            raise ValueError("the patch tasks need a fusion that gives image tokens (OneStream)")
        row = view.batch.image_row
        if row is not None:
            features, answers = features[row], {name: answer[row] for name, answer in answers.items()}
        losses = self._losses(fused.image.tokens, features, answers)
        return Loss(torch.stack(list(losses.values())).sum(), {name: value.detach() for name, value in losses.items()})

    def _answers(self, batch: Batch, pictures: int) -> dict[str, Tensor]:
        """What is done to each picture, (P,) each; the stranger is of the picture `other`, if `there` is another."""
        ids = image_ids(batch, pictures)
        other, there = negatives.sample_negatives(torch.zeros(len(ids), len(ids), device=ids.device), ids)
        answers = {"turn": _draw(ids, 4), "order": _draw(ids, len(ORDERS)), "stranger": _draw(ids, 9)}
        answers |= {"grey": self._place(batch, ids, 4), "blank": self._place(batch, ids, 5)}
        return answers | {"other": other, "there": there}

    def _place(self, batch: Batch, ids: Tensor, side: int) -> Tensor:
        """(P,) a patch of a grid, drawn; one that a phrase names where `masking` knows of any."""
        draw = draws.uniform(len(ids), side * side, device=ids.device)
        if self.masking is not None:
            draw = draw + self.masking.cells(batch, side).float()
        return draw.argmax(1)

    def _losses(self, tokens: Tensor, features: Tensor, answers: dict[str, Tensor]) -> dict[str, Tensor]:
        one, two, three, four, five = (tokens[:, a:b] for a, b in zip(STARTS, STARTS[1:], strict=False))
        each = torch.arange(len(tokens), device=tokens.device)
        stranger = F.cross_entropy(self.stranger(three)[..., 0].float(), answers["stranger"], reduction="none")
        there = answers["there"].float()
        weight = rank_weight(there.sum(), there.device)
        losses = {
            "kaleido_turn": F.cross_entropy(self.turn(one[:, 0]).float(), answers["turn"]),
            "kaleido_order": F.cross_entropy(self.order(two.flatten(1)).float(), answers["order"]),
            "kaleido_stranger": weight * (stranger * there).sum() / there.sum().clamp(min=1),
        }
        for name, grid, start, head in (("grey", four, STARTS[3], 0), ("blank", five, STARTS[4], 1)):
            told = self.feature[head](grid[each, answers[name]])
            losses[f"kaleido_{name}"] = softmax_divergence(told, features[each, start + answers[name]])
        return losses


def spoil(patches: Tensor, features: Tensor, answers: dict[str, Tensor], network: Callable[[Tensor], Tensor]) -> Tensor:
    """(P, 55, 3, p, p) patches and their features -> (P, 55, F) with one change in each grid.

    Patches are seen one by one, so that one in another place, or of another picture, keeps its feature: the `network`,
    (P, N, 3, p, p) to (P, N, F), sees the turned, the grey and the empty ones alone, three of the 55.
    """
    _, two, three, four, five = (features[:, a:b] for a, b in zip(STARTS, STARTS[1:], strict=False))
    each = torch.arange(len(patches), device=patches.device)
    turned = rotated(patches[:, 0], answers["turn"])
    pale = grey(patches[each, STARTS[3] + answers["grey"]])
    new = network(torch.stack([turned, pale, torch.zeros_like(turned)], 1))
    changed = [
        new[:, :1],
        shuffled(two, answers["order"]),
        replaced(three, answers["stranger"], three[answers["other"], answers["stranger"]]),
        replaced(four, answers["grey"], new[:, 1]),
        replaced(five, answers["blank"], new[:, 2]),
    ]
    return torch.cat(changed, 1)


def image_ids(batch: Batch, pictures: int) -> Tensor:
    """(P,) image id of each picture of the batch."""
    if batch.image_row is None:
        return batch.image_id
    return batch.image_id.new_zeros(pictures).index_copy_(0, batch.image_row, batch.image_id)


def _draw(ids: Tensor, choices: int) -> Tensor:
    return (draws.uniform(len(ids), 1, device=ids.device)[:, 0] * choices).long()


def _transform(width: int, feature_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12), nn.Linear(width, feature_width)
    )
