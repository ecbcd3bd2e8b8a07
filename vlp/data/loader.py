"""Batches of a run, from any step on: the order contract carried out by reading processes."""

import multiprocessing
import os
import threading
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from vlp.data.config import DataConfig
from vlp.data.dataset import PairDataset
from vlp.data.errors import DataError
from vlp.data.handover import Slabs
from vlp.data.mixture import Mixture
from vlp.data.order import RUN, positions
from vlp.data.preflight import preflight
from vlp.data.reading import MOST_SKIPPED, Collate, Read, Reader
from vlp.data.tally import Tally
from vlp.types import Batch


class TrainLoader:
    """Endless micro batches for one rank. The global step's samples do not depend on ranks, workers or restarts."""

    def __init__(
        self,
        config: DataConfig,
        data: PairDataset | Mixture,
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
        _check_order(config)
        self.data = data if isinstance(data, Mixture) else Mixture([data], [1.0])
        for dataset in self.data.sets:
            preflight(dataset)
            dataset.shards.close()
        self.config = config
        self.rank = rank
        self.world = world
        self.seed = seed
        self.accumulate = accumulate
        self.tally = Tally(config.max_bad_share, world)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every pair is shown once, or every picture with `captions` of its captions."""
        return len(self.data) / self.config.batch_size

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Micro batches from global step `start_step` on.

        Raises DataError when too many samples are bad; of several ranks that is for the run to judge (`Tally`).
        """
        config, slabs = self.config, Slabs()
        loader: DataLoader[Read] = DataLoader(
            Reader(self.data, self.seed, config.batch_size, config.length_group, slabs),  # type: ignore[arg-type]
            batch_sampler=self._positions(start_step),
            num_workers=config.workers,
            collate_fn=Collate(self.data.sets[0].tokenizer.pad_id, config.normalisation, slabs),
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="forkserver" if config.workers else None,
            worker_init_fn=die_with_the_run,
        )
        for read in loader:
            if read.batch is None:
                raise DataError(f"{MOST_SKIPPED} samples in a row are bad, the first: {read.bad[0]}")
            self.tally.add(len(read.batch), read.bad)
            yield read.batch

    def report(self) -> dict[str, int]:
        """Bad samples met so far, by cause."""
        return dict(self.tally.bad)

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


def _check_order(config: DataConfig) -> None:
    if config.captions < 0 or config.block < 1:
        raise DataError(f"data.captions={config.captions} must be 0 or more, data.block={config.block} 1 or more")
    if config.window < 0 or config.window % RUN:
        raise DataError(f"data.window={config.window} must be a multiple of {RUN}, or 0 for the whole set")
    if config.length_group < 1 or (config.length_group > 1 and (config.captions or config.block > 1)):
        raise DataError(
            f"data.length_group={config.length_group} must be 1 or more, and 1 where data.captions or data.block keep "
            "neighbours together"
        )


def die_with_the_run(worker: int) -> None:
    """End this reading process when its run is killed: torch watches the parent, which here is the fork server."""

    def wait() -> None:
        run = multiprocessing.parent_process()
        assert run is not None
        run.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
