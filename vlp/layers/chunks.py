"""Sums over rows, a few rows at a time: what a loss needs between its rows and its value is never there as a whole."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def sum_over_rows(part: Callable[..., Tensor], rows: Sequence[Tensor | None], chunk: int | None) -> Tensor:
    """The sum of `part(*rows)` over slices of `chunk` rows, which all entries of `rows` share; None stays None.

    `part` gives the scalar sum over the rows that it gets, and draws nothing: each slice is computed again in the
    backward pass, so memory is that of one slice, and of what `part` reads beside its rows. Without `chunk` it is one
    plain call.
    """
    if chunk is None:
        return part(*rows)
    first = next(row for row in rows if row is not None)
    total = torch.zeros((), device=first.device)
    for start in range(0, len(first), chunk):
        some = [None if row is None else row[start : start + chunk] for row in rows]
        total = total + checkpoint(part, *some, use_reentrant=False, preserve_rng_state=False)
    return total
