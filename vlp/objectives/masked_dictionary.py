"""Masked visual modelling: which dictionary entry was hidden? (SOHO, Huang 2021, section 3.3, equation 7)"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers import draws
from vlp.layers.blocks import init_transformer
from vlp.types import Loss
from vlp.view import View


def same_entry(codes: Tensor, place: Tensor) -> Tensor:
    """(P, N) codes -> (P, N) bool: the cells that carry the code of the cell `place` (P,)."""
    return codes == codes.gather(1, place[:, None])


class MaskedDictionary(nn.Module):
    """In each picture one cell is drawn and all cells with its entry are hidden; each is to be told by the cosine of
    its fused token with the dictionary's entries, over `temperature` (1 as released).

    Needs `VisualDictionary` and a fusion that gives back image tokens.
    """

    def __init__(self, *, width: int, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = weight
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))
        init_transformer(self, width)

    def forward(self, view: View) -> Loss:
        """Cross entropy and accuracy over the hidden cells."""
        vision: Any = view.model.vision
        codes: Tensor = vision.codes(view.batch)
        draw = draws.uniform(len(codes), 1, device=codes.device)[:, 0]
        hidden = same_entry(codes, (draw * codes.shape[1]).long())
        fused = view.fused_with(view.hiding(hidden))
        if fused.image is None:
            raise ValueError("masked visual modelling needs a fusion that gives image tokens (OneStream)")
        row = view.batch.image_row
        if row is not None:
            codes, hidden = codes[row], hidden[row]
        states = F.normalize(self.head(fused.image.tokens[hidden]).float(), dim=-1)
        logits = states @ F.normalize(vision.entries, dim=-1).T.to(states.dtype) / self.temperature
        # Each picture weighs the same however many cells share the drawn entry, so that ranks average to the whole.
        share = (1 / (hidden.sum(1, keepdim=True) * len(hidden))).expand_as(hidden)[hidden]
        value = (F.cross_entropy(logits, codes[hidden], reduction="none") * share).sum()
        right = (logits.argmax(1) == codes[hidden]).float().mean()
        return Loss(value, {"mvm": value.detach(), "mvm_accuracy": right.detach()})
