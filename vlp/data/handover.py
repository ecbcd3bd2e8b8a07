"""Batches handed from a reading process to its run, in memory that both see and that is used again.

Fresh memory costs more than what is written into it, because the kernel clears and maps it page by page in each
process. So a reading process keeps a few slabs, makes the pictures of a batch in one and packs its other tensors into
another, and writes over them when the run has let go of the last tensor there.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlp.types import Batch, each

HEAD = 64  # first bytes of a slab, the first of which says whether it is lent; tensors begin at multiples of this
MOST_KEPT = 12  # slabs of a reading process, two a batch; the run holds one or two batches, and two wait for it


@dataclass(frozen=True)
class Place:
    """Where a tensor lies."""

    slab: int  # of those that are sent with its batch
    offset: int  # bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def view(self, slabs: Sequence[Tensor]) -> Tensor:
        """The tensor that lies here, in the memory of its slab (bytes,) uint8."""
        memory = slabs[self.slab]
        whole = len(memory) - len(memory) % self.dtype.itemsize
        start = self.offset // self.dtype.itemsize
        return torch.as_strided(memory[:whole].view(self.dtype), self.shape, self.strides, start)


class Slabs:
    """The slabs of one reading process."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self.unsent: list[Tensor] = []

    def lend(self, size: int) -> Tensor:
        """A slab of HEAD and `size` bytes, or more, that nobody holds."""
        slab = next((kept for kept in self.kept if len(kept) >= HEAD + size and not kept[0]), None)
        if slab is None:
            slab = torch.empty(HEAD + size, dtype=torch.uint8).share_memory_()
            self.kept = [*self.kept, slab][-MOST_KEPT:]
        slab[0] = 1
        self.unsent.append(slab)
        return slab

    def send(self, sent: Sequence[Tensor]) -> None:
        """The run holds these now, and ends their loans; others that were lent are free again."""
        for slab in self.unsent:
            if all(slab is not other for other in sent):
                slab[0] = 0
        self.unsent = []

    def __getstate__(self) -> dict[str, object]:
        return {"kept": [], "unsent": []}  # each process has its own


def pack(batch: Batch, slabs: Slabs) -> tuple[list[Tensor], Batch]:
    """The slabs that hold all tensors of a batch, and the batch with a Place for each.

    Tensors that were made in a slab stay there, the others are copied into one.
    """
    homes = {slab.untyped_storage().data_ptr(): slab for slab in slabs.unsent}
    sent: list[Tensor] = []
    copied: list[tuple[Place, Tensor]] = []
    end = HEAD

    def place(tensor: Tensor) -> Place:
        nonlocal end
        home = homes.get(tensor.untyped_storage().data_ptr())
        if home is not None:
            if all(slab is not home for slab in sent):
                sent.append(home)
            number = next(i for i, slab in enumerate(sent) if slab is home)
            return Place(number, tensor.data_ptr() - home.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        dense = torch.empty_like(tensor, device="meta")  # the same layout without holes
        made = Place(-1, end, tensor.shape, dense.stride(), tensor.dtype)
        copied.append((made, tensor))
        end += -(-dense.nbytes // HEAD) * HEAD
        return made

    placed: Batch = each(batch, Tensor, place)
    sent.append(slabs.lend(end - HEAD))
    for made, tensor in copied:
        made.view(sent).copy_(tensor)
    slabs.send(sent)
    return sent, placed


def unpack(slabs: Sequence[Tensor], placed: Batch) -> Batch:
    """The batch in these slabs. Each loan ends when no tensor shares the slab any more, views of views included."""
    memories = [_held(slab) for slab in slabs]
    batch: Batch = each(placed, Place, lambda made: made.view(memories))
    return batch


def _held(slab: Tensor) -> Tensor:
    lent = slab.numpy()[:]  # torch holds this very object for as long as a tensor of it lives
    weakref.finalize(lent, _end_loan, slab).atexit = False
    return torch.from_numpy(lent)


def _end_loan(slab: Any) -> None:
    slab[0] = 0
