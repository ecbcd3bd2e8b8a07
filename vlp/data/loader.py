"""Batches of a run, from any step on: the order contract carried out by reading processes."""

import logging
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vlp.data.collate import collate
from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.errors import BadSampleError, DataError
from vlp.data.order import positions, sample_at
from vlp.types import Batch, Sample

log = logging.getLogger(__name__)
FEW = 10  # bad samples that are never too many: in a short run one picture is already a large share


class _Reader:
    """Map-style face of the dataset for torch's DataLoader: a position to a sample, or to what is wrong with it."""

    def __init__(self, dataset: PairDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, position: int) -> Sample | BadSampleError:
        captions, block = self.dataset.config.captions, self.dataset.config.block
        try:
            if not captions:
                return self.dataset.sample(*sample_at(len(self.dataset), self.seed, position, block))
            turn, slot = divmod(position, captions)
            return self.dataset.sample_of(*sample_at(self.dataset.num_pictures, self.seed, turn, block), slot)
        except BadSampleError as error:
            return error

    def __len__(self) -> int:
        return len(self.dataset)


@dataclass
class _Read:
    """What a reading process hands over: a batch, unless all of it is bad, and what was wrong."""

    batch: Batch | None
    bad: list[BadSampleError]

    def pin_memory(self) -> "_Read":
        """Called by the DataLoader where there is an accelerator; it looks inside no dataclass by itself."""
        return _Read(_pinned(self.batch), self.bad)


def _pinned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _pinned(getattr(value, f.name)) for f in fields(value)})
    return value


class _Collate:
    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, samples: list[Sample | BadSampleError]) -> _Read:
        good = [s for s in samples if isinstance(s, Sample)]
        bad = [s for s in samples if isinstance(s, BadSampleError)]
        # A bad sample's place is taken by a good one of its batch: every rank keeps the same number of rows, which the
        # gather across ranks needs, and its twin is a positive by image id, never a false negative.
        filled = good + [good[i % len(good)] for i in range(len(bad))] if good else []
        return _Read(collate(filled, self.pad_id) if filled else None, bad)


class TrainLoader:
    """Endless micro batches for one rank. The global step's samples do not depend on ranks, workers or restarts."""

    def __init__(
        self,
        config: DataConfig,
        dataset: PairDataset,
        *,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        accumulate: int = 1,
    ) -> None:
        if config.batch_size % (world * accumulate):
            raise DataError(
                f"data.batch_size={config.batch_size} does not divide by {world} ranks x {accumulate} micro batches"
            )
        if config.captions < 0 or config.block < 1:
            raise DataError(f"data.captions={config.captions} must be 0 or more, data.block={config.block} 1 or more")
        dataset.preflight()
        self.config = config
        self.dataset = dataset
        self.rank = rank
        self.world = world
        self.seed = seed
        self.accumulate = accumulate
        self.seen = 0
        self.bad: Counter[str] = Counter()

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every pair is shown once, or every picture with `captions` of its captions."""
        pairs = self.dataset.num_pictures * self.config.captions if self.config.captions else len(self.dataset)
        return pairs / self.config.batch_size

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Micro batches from global step `start_step` on. Raises DataError when too many samples are bad."""
        loader: DataLoader[_Read] = DataLoader(
            _Reader(self.dataset, self.seed),  # type: ignore[arg-type]
            batch_sampler=self._positions(start_step),
            num_workers=self.config.workers,
            collate_fn=_Collate(self.dataset.tokenizer.pad_id),
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="forkserver" if self.config.workers else None,
            worker_init_fn=_die_with_the_run,
        )
        for read in loader:
            self._count(read.bad)
            if read.batch is None:
                raise DataError(f"a whole batch is bad, the first sample: {read.bad[0]}")
            self.seen += len(read.batch)
            yield read.batch

    def report(self) -> dict[str, int]:
        """Bad samples met so far, by cause."""
        return dict(self.bad)

    def _positions(self, start_step: int) -> Iterator[list[int]]:
        step = start_step
        while True:
            for micro in range(self.accumulate):
                yield list(
                    positions(
                        step,
                        micro,
                        batch_size=self.config.batch_size,
                        accumulate=self.accumulate,
                        rank=self.rank,
                        world=self.world,
                    )
                )
            step += 1

    def _count(self, bad: list[BadSampleError]) -> None:
        for error in bad:
            self.bad[error.cause] += 1
            log.warning("skipped %s", error)
        total = sum(self.bad.values())
        if bad and total > max(FEW, self.config.max_bad_share * self.seen):
            raise DataError(
                f"{total} of {self.seen} samples were bad ({dict(self.bad)}), the last: {bad[-1]}; "
                "mend the shards, or raise data.max_bad_share"
            )


def _die_with_the_run(worker: int) -> None:
    """End this reading process when its run is killed: torch watches the parent, which here is the fork server."""

    def wait() -> None:
        run = multiprocessing.parent_process()
        assert run is not None
        run.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
