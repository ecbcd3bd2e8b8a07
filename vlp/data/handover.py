"""Batches handed from a reading process to its run, in memory that both see and that is used again.

Fresh memory costs more than what is written into it, because the kernel clears and maps it page by page in each
process. So a reading process keeps a few slabs, packs all tensors of a batch into one, and writes over it when the
run has let go of the last of them.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlp.types import Batch, each

ALIGNED = 64  # bytes: tensors begin at multiples of this; the slab's first byte says whether it is lent
MOST_KEPT = 8  # slabs of a reading process; the run usually holds one or two, and two wait for it


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a slab."""

    offset: int  # bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def view(self, slab: Tensor) -> Tensor:
        """The tensor that lies here, in the memory of `slab` (bytes,) uint8."""
        count = torch.Size(self.shape).numel()
        held = slab[self.offset : self.offset + count * self.dtype.itemsize].view(self.dtype)
        return torch.as_strided(held, self.shape, self.strides)


class Slabs:
    """The slabs of one reading process."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []

    def lend(self, size: int) -> Tensor:
        """A slab of `size` bytes or more that nobody holds; the run ends the loan."""
        slab = next((kept for kept in self.kept if len(kept) >= size and not kept[0]), None)
        if slab is None:
            slab = torch.empty(size, dtype=torch.uint8).share_memory_()
            self.kept = [*self.kept, slab][-MOST_KEPT:]
        slab[0] = 1
        return slab

    def __getstate__(self) -> dict[str, object]:
        return {"kept": []}  # each process has its own


def pack(batch: Batch, slabs: Slabs) -> tuple[Tensor, Batch]:
    """All tensors of a batch copied into one slab; the slab, and the batch with a Place for each tensor."""
    found: list[tuple[Place, Tensor]] = []
    end = ALIGNED

    def place(tensor: Tensor) -> Place:
        nonlocal end
        dense = torch.empty_like(tensor, device="meta")  # its strides: the same layout without holes
        made = Place(end, tuple(tensor.shape), dense.stride(), tensor.dtype)
        found.append((made, tensor))
        end += -(-dense.nbytes // ALIGNED) * ALIGNED
        return made

    placed: Batch = each(batch, Tensor, place)
    slab = slabs.lend(end)
    for made, tensor in found:
        made.view(slab).copy_(tensor)
    return slab, placed


def unpack(slab: Tensor, placed: Batch) -> Batch:
    """The batch in a slab. The loan ends when no tensor shares this memory any more, views of views included."""
    lent = slab.numpy()[:]  # torch holds this very object for as long as a tensor of it lives
    weakref.finalize(lent, _end_loan, slab).atexit = False
    memory = torch.from_numpy(lent)
    batch: Batch = each(placed, Place, lambda made: made.view(memory))
    return batch


def _end_loan(slab: Any) -> None:
    slab[0] = 0
