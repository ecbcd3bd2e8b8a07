"""Several sets read as one, in an order that is as exact as that of a single set."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlp.data.canvas import Canvas
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.errors import DataError
from vlp.data.order import WORD
from vlp.data.shards import MOST_OPEN
from vlp.data.tokenizer import Tokenizer
from vlp.types import Sample


class Mixture:
    """Sets with the number of times that an epoch shows each: 1 = every pair once, 0.5 = half of them, the other half
    in the next epoch. Sets are interleaved evenly, so every batch has the epoch's shares, to within a group each."""

    def __init__(self, sets: list[PairDataset], passes: list[float], group: int = 1) -> None:
        """`group` positions stay together: the captions of a picture, the blocks of the order.

        Raises DataError for passes that show nothing.
        """
        self.sets = sets
        self.group = group if len(sets) > 1 else 1
        if not all(math.isfinite(p) and p > 0 for p in passes):
            raise DataError(f"data.train={passes}: how often an epoch shows a set is a number above 0")
        for dataset in sets:
            dataset.shards.most_open = max(8, MOST_OPEN // len(sets))
        self.counts = [max(1, round(p * s.turns / self.group)) for p, s in zip(passes, sets, strict=True)]

    @staticmethod
    def from_config(config: DataConfig, tokenizer: Tokenizer, seed: int = 0) -> "Mixture":
        """The training sets of a config. Raises DataError naming a folder that is none."""
        passes = config.train if isinstance(config.train, dict) else {config.train: 1.0}
        if not passes:
            raise DataError("data.train names no folder")
        sets = [
            PairDataset(config, Path(folder), tokenizer, train=True, seed=(seed + number) & WORD)
            for number, folder in enumerate(passes)
        ]
        return Mixture(sets, list(passes.values()), max(1, config.captions) * config.block)

    def __len__(self) -> int:
        return sum(self.counts) * self.group

    @property
    def image_size(self) -> int:
        """Pixels a side of every picture."""
        return self.sets[0].config.image_size

    @contextmanager
    def drawing_on(self, canvas: Canvas) -> Iterator[None]:
        """Pictures that are read within lie on the canvas, as many as have room there."""
        for dataset in self.sets:
            dataset.begin(canvas)
        try:
            yield
        finally:
            for dataset in self.sets:
                dataset.begin(None)

    def locate(self, position: int) -> tuple[int, int]:
        """(set, position in that set's own endless order) of a position of the mixture.

        Each set in turn takes its share of what is left, spread evenly: of q groups, floor(q * own / left) are its own.
        """
        group, inside = divmod(position, self.group)
        epoch, place = divmod(group, sum(self.counts))
        left = sum(self.counts)
        for number, own in enumerate(self.counts):
            before = place * own // left
            if (place + 1) * own // left > before:
                return number, (epoch * own + before) * self.group + inside
            place, left = place - before, left - own
        raise AssertionError("the last set takes all that is left")

    def at(self, position: int) -> Sample:
        """The sample at a position; ids of several sets are kept apart. Raises BadSampleError."""
        number, own = self.locate(position)
        sample = self.sets[number].at(own)
        if len(self.sets) > 1:
            sample.image_id, sample.caption_id = (
                self._apart(sample.image_id, number),
                self._apart(sample.caption_id, number),
            )
        return sample

    def _apart(self, identity: int, number: int) -> int:
        return (identity * len(self.sets) + number) & (WORD >> 1)

    def caption_length(self, position: int) -> int:
        """Characters of the caption at a position; 0 for a bad sample."""
        number, own = self.locate(position)
        return self.sets[number].caption_length(own)
