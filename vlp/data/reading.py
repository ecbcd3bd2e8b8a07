"""What a reading process does: positions to a batch, and to what was wrong."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from vlp.data.canvas import Canvas
from vlp.data.collate import collate
from vlp.data.errors import BadSampleError
from vlp.data.handover import HEAD, Slabs, pack, unpack
from vlp.data.mixture import Mixture
from vlp.data.order import permutation
from vlp.types import Batch, Sample, each

MOST_SKIPPED = 1_000  # positions in a row that are all bad: there is nothing to go on with
Found = tuple[Sample | None, BadSampleError | None]  # what is shown at a position, and what was wrong with its own


@dataclass
class Read:
    """A batch, and the bad samples whose places good ones have taken; no batch where no good one was near."""

    batch: Batch | None
    bad: list[BadSampleError]

    def pin_memory(self) -> "Read":
        """Called by the DataLoader where there is an accelerator; it looks inside no dataclass by itself."""
        return Read(each(self.batch, Tensor, lambda tensor: tensor.pin_memory()), self.bad)


@dataclass
class Packed:
    """A Read on its way out of a reading process, which it leaves as a Read: its batch's tensors lie in `slabs`."""

    slabs: list[Tensor]
    placed: Batch
    bad: list[BadSampleError]

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.slabs, self.placed, self.bad)


def _received(slabs: list[Tensor], placed: Batch, bad: list[BadSampleError]) -> Read:
    return Read(unpack(slabs, placed), bad)


class Reader:
    """Map-style face of the data for torch's DataLoader: positions of a batch to samples.

    The place of a bad sample is taken by the next good one in the order: batches stay what they are for any number of
    ranks, every rank keeps the same number of rows, which the gather across ranks needs, and a twin in the same batch
    is a positive by image id, never a false negative.
    """

    def __init__(self, data: Mixture, seed: int, batch_size: int, length_group: int, slabs: Slabs) -> None:
        self.data = data
        self.slabs = slabs
        self.seed = seed
        self.batch_size = batch_size
        self.length_group = length_group
        self._sorted: tuple[int, list[int]] = (-1, [])

    def __getitem__(self, position: int) -> Sample | BadSampleError:
        try:
            return self.data.at(self.by_length(position))
        except BadSampleError as error:
            return error.with_traceback(None)

    def __getitems__(self, positions: list[int]) -> list[Found]:
        """For each position a sample, and what was wrong where it is another position's."""
        with self.data.drawing_on(self._canvas(len(positions))):
            return [self._good(position) for position in positions]

    def _canvas(self, rows: int) -> Canvas:
        size = self.data.image_size
        count = 3 * size * size * rows
        if get_worker_info() is None:
            return Canvas(torch.empty(count, dtype=torch.uint8), size)
        return Canvas(self.slabs.lend(count)[HEAD : HEAD + count], size)

    def _good(self, position: int) -> Found:
        first = self[position]
        if isinstance(first, Sample):
            return first, None
        following = (self[other] for other in range(position + 1, position + MOST_SKIPPED))
        return next((found for found in following if isinstance(found, Sample)), None), first

    def __len__(self) -> int:
        return len(self.data)

    def by_length(self, position: int) -> int:
        """The position whose pair is shown here: those of `length_group` batches are sorted by the length of their
        captions and cut into batches, which then come in random order."""
        if self.length_group == 1:
            return position
        size = self.length_group * self.batch_size
        number, place = divmod(position, size)
        if self._sorted[0] != number:
            positions = range(number * size, (number + 1) * size)
            self._sorted = (number, sorted(positions, key=self.data.caption_length))
        batch, inside = divmod(place, self.batch_size)
        order: np.ndarray = permutation(self.length_group, self.seed, number)
        return self._sorted[1][int(order[batch]) * self.batch_size + inside]


class Collate:
    """Samples to a batch that is padded with `pad_id`, its pictures still in uint8."""

    def __init__(self, pad_id: int, normalisation: tuple[tuple[float, ...], tuple[float, ...]], slabs: Slabs) -> None:
        self.pad_id = pad_id
        self.normalisation = normalisation
        self.slabs = slabs

    def __call__(self, read: list[Found]) -> Read | Packed:
        """The batch; in a reading process packed to be handed over."""
        samples = [sample for sample, _ in read if sample is not None]
        bad = [error for _, error in read if error is not None]
        batch = collate(samples, self.pad_id, self.normalisation) if len(samples) == len(read) else None
        if get_worker_info() is None:
            return Read(batch, bad)
        if batch is None:
            self.slabs.send([])
            return Read(None, bad)
        return Packed(*pack(batch, self.slabs), bad)
