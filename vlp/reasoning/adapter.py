"""Tokens of any encoder brought to the width in which two modalities meet (the linear heads of VSE++, SCAN, ...)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers.packing import Packing
from vlp.layers.standardize import Standardize
from vlp.types import Stream


class TokenAdapter(nn.Module):
    """Stream (B, N, D) -> Stream (B, N, E): dropout and one linear layer, or with `hidden` two with a GELU between.

    Of tokens wider than `width` the last dimensions are read: the last of the levels that an encoder shows.
    `standardize` brings each dimension of frozen features to one scale first. `drop_tokens` leaves out that share of
    the tokens in training (the size augmentation of VSE-infinity, Chen 2021, section 3.3), `unit` gives every token
    length 1. Zeros stand under the mask.
    """

    def __init__(
        self,
        *,
        width: int,
        embed_dim: int,
        hidden: int | None = None,
        dropout: float = 0.0,
        drop_tokens: float = 0.0,
        standardize: bool = False,
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.standardize = Standardize(width=width) if standardize else nn.Identity()
        self.layers = nn.Sequential(nn.Dropout(dropout), *_layers(width, hidden, embed_dim, dropout))
        self.width = width
        self.drop_tokens = drop_tokens
        self.unit = unit

    def forward(self, stream: Stream) -> Stream:
        """Stream to stream."""
        mask = kept(stream.mask, self.drop_tokens) if self.training and self.drop_tokens else stream.mask
        rows = Packing.of(mask)
        tokens = cast(Tensor, self.layers(self.standardize(rows.pack(stream.tokens[..., -self.width :]))))
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        if self.unit:
            tokens = F.normalize(tokens, dim=-1)
        return Stream(rows.restore(tokens, mask.shape[1]), mask)


def kept(mask: Tensor, share: float) -> Tensor:
    """(B, N) bool: each token present stays with probability 1 - `share`, the first one of a row always."""
    drawn = torch.rand(mask.shape, device=mask.device) >= share
    drawn[:, 0] = True
    return mask & drawn


def _layers(width: int, hidden: int | None, embed_dim: int, dropout: float) -> list[nn.Module]:
    if hidden is None:
        return [nn.Linear(width, embed_dim)]
    return [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, embed_dim)]
