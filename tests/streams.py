"""Ragged streams whose padding holds numbers that must not matter."""

import torch

from vlp.types import Stream


def stream(rows: int, length: int, width: int, seed: int, unit: bool = False) -> Stream:
    """(rows, length, width) in float64, of 1 to `length` tokens, the first row full; noise stands behind the rest."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, length, width, generator=g, dtype=torch.float64)
    if unit:
        tokens = torch.nn.functional.normalize(tokens, dim=2)
    lengths = torch.randint(1, length + 1, (rows,), generator=g)
    lengths[0] = length
    mask = torch.arange(length)[None] < lengths[:, None]
    return Stream(torch.where(mask[..., None], tokens, 7.0 * tokens + 1), mask)


def present(some: Stream, row: int) -> torch.Tensor:
    """The tokens of a row that are there."""
    return some.tokens[row][some.mask[row]]
