"""Ragged rows: the tokens that exist, side by side, so that no linear layer ever works on padding."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Packing:
    """Where the present tokens of a (B, L) mask stand, packed row after row into T places.

    `pack` takes (B, L, D) to (T, D). `unpack` takes (T, D) to (B, width, D), left-aligned, zeros behind each row's
    end; `width` is the longest row, so attention runs on the shortest rectangle that holds the batch.
    """

    flat: Tensor  # (T,) index of each present token in the flattened (B * L) mask
    cells: Tensor  # (T,) index of each present token in the flattened (B * width) rectangle
    rows: Tensor  # (T,) which row each present token belongs to
    num_rows: int
    width: int
    key_mask: Tensor | None  # (B, 1, 1 or width, width) bool for attention, None where the rectangle is full

    @staticmethod
    def of(mask: Tensor) -> "Packing":
        """Packing of a (B, L) bool mask. One host sync on a GPU (the count of present tokens)."""
        num_rows, length = mask.shape
        flat = mask.reshape(-1).nonzero().squeeze(1)
        rows = torch.div(flat, max(length, 1), rounding_mode="floor")
        counts = mask.sum(1)
        # One place even where no token is present: a small batch may mask no word, and attention takes no (B, 0, D).
        width = max(int(counts.max()), 1) if num_rows else 0
        slots = (mask.cumsum(1) - 1).reshape(-1)[flat]
        full = flat.numel() == num_rows * width
        key_mask = None if full else (torch.arange(width, device=mask.device) < counts[:, None])[:, None, None]
        return Packing(flat, rows * width + slots, rows, num_rows, width, key_mask)

    def causal(self, free: Tensor | None = None) -> "Packing":
        """The same rows where a token reads no later one. `free` (T,) bool marks tokens that every one may read, and
        that read each other alone: the picture in front of a caption (prefix language modelling)."""
        slots = torch.arange(self.width, device=self.flat.device)
        seen = (slots[:, None] >= slots)[None, None]  # (1, 1, queries, keys)
        if free is not None:
            open_keys = self.unpack(free[:, None].long())[..., 0].bool()  # (B, width)
            seen = (seen & ~open_keys[:, None, :, None]) | open_keys[:, None, None, :]
        seen = seen if self.key_mask is None else seen & self.key_mask
        # The places behind a row's end are queries too: without a key their softmax would be NaN.
        seen = seen | (slots[:, None] == slots)
        return replace(self, key_mask=seen.expand(self.num_rows, 1, -1, -1))

    def pack(self, tokens: Tensor) -> Tensor:
        """(B, L, D) -> (T, D)."""
        table = tokens.reshape(-1, tokens.shape[-1])
        return table if table.shape[0] == self.flat.numel() else table.index_select(0, self.flat)

    def unpack(self, packed: Tensor) -> Tensor:
        """(T, D) -> (B, width, D), zeros where a row has ended."""
        if packed.shape[0] == self.num_rows * self.width:
            return packed.view(self.num_rows, self.width, -1)
        table = packed.new_zeros(self.num_rows * self.width, packed.shape[-1])
        return table.index_copy(0, self.cells, packed).view(self.num_rows, self.width, -1)

    def repack(self, rectangle: Tensor) -> Tensor:
        """(B, width, D) -> (T, D), the inverse of `unpack`."""
        table = rectangle.reshape(-1, rectangle.shape[-1])
        return table if table.shape[0] == self.cells.numel() else table.index_select(0, self.cells)

    def restore(self, packed: Tensor, length: int) -> Tensor:
        """(T, D) -> (B, length, D) at the places where the mask had them, zeros at padding."""
        if packed.shape[0] == self.num_rows * length:
            return packed.view(self.num_rows, length, -1)
        table = packed.new_zeros(self.num_rows * length, packed.shape[-1])
        return table.index_copy(0, self.flat, packed).view(self.num_rows, length, -1)
