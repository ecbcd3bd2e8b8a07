"""Memory for the pictures of a batch, one behind another: they are made where the batch wants them, and not copied."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Canvas:
    """Rows of (3, size, size) uint8, each pixel by pixel, in `memory` (bytes,) uint8."""

    def __init__(self, memory: Tensor, size: int) -> None:
        rows = len(memory) // (3 * size * size)
        self.rows = memory[: rows * 3 * size * size].view(rows, size, size, 3).permute(0, 3, 1, 2)
        self.used = 0

    def row(self) -> Tensor | None:
        """The first row that is free, None where there is none; the same one until `keep`."""
        return self.rows[self.used] if self.used < len(self.rows) else None

    def keep(self) -> None:
        """The row holds a picture now."""
        self.used += 1


def in_one_piece(pictures: Sequence[Tensor]) -> Tensor | None:
    """(P, 3, height, width) where the P pictures, all of one shape, lie one behind another in one memory, else None."""
    first, last = pictures[0], pictures[-1]
    if first.untyped_storage().data_ptr() != last.untyped_storage().data_ptr():
        return None
    step, place = first.nbytes, first.data_ptr()
    for number, picture in enumerate(pictures):
        if picture.data_ptr() != place + number * step or picture.stride() != first.stride():
            return None
    return torch.as_strided(first, (len(pictures), *first.shape), (first.numel(), *first.stride()))
