"""Batches of remote shards: the face of TrainLoader over streams whose lengths nobody knows."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vlp.data.config import DataConfig
from vlp.data.errors import BadSampleError, DataError
from vlp.data.fetch import COMMAND, ShardCache
from vlp.data.handover import Slabs
from vlp.data.loader import die_with_the_run
from vlp.data.reading import Collate, Found, Packed, Read
from vlp.data.stream import SampleStream, expand
from vlp.data.tally import Tally
from vlp.data.tokenizer import Tokenizer
from vlp.types import Batch, Sample


def is_remote(folder: str) -> bool:
    """Whether a name of `data.train` is a URL."""
    return "://" in folder or folder.startswith(COMMAND)


class _Batches(IterableDataset[Read | Packed]):
    """What each reading process yields: its stream's batches, from the run's micro batch `start` on.

    Micro batch m comes from stream m % workers of its rank, and takes `share` samples of it, bad ones included, so
    that the same number of ranks and workers finds its place again.
    """

    def __init__(self, samples: SampleStream, collate: Collate, share: int, start: int, rank: int, world: int) -> None:
        self.samples = samples
        self.collate = collate
        self.share = share
        self.start = start
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[Read | Packed]:
        info = get_worker_info()
        workers, worker = (1, 0) if info is None else (info.num_workers, info.id)
        own = (self.start + worker) % workers
        done = -(-(self.start - own) // workers)  # micro batches below `start` that were this stream's
        streams = self.world * workers
        samples = self.samples.read(own * self.world + self.rank, streams, done * self.share)
        while True:
            yield self._read(list(islice(samples, self.share)))

    def _read(self, found: list[Sample | BadSampleError]) -> Read | Packed:
        good = [s for s in found if isinstance(s, Sample)]
        bad = [s for s in found if isinstance(s, BadSampleError)]
        filled = good + [good[i % len(good)] for i in range(len(bad))] if good else []
        places: list[Found] = [(sample, None) for sample in good]
        places += zip(filled[len(good) :], bad, strict=True) if filled else []
        return self.collate(places) if filled else Read(None, bad)


class StreamLoader:
    """Endless micro batches for one rank, of shards that are fetched as they are read."""

    def __init__(
        self, config: DataConfig, tokenizer: Tokenizer, *, rank: int, world: int, seed: int, accumulate: int
    ) -> None:
        """Raises DataError for settings that a stream cannot keep."""
        if config.batch_size % (world * accumulate):
            raise DataError(
                f"data.batch_size={config.batch_size} does not divide by {world} ranks x {accumulate} micro batches"
            )
        _check(config)
        cache = ShardCache(Path(config.cache), int(config.cache_gigabytes * 1e9), config.allow_commands)
        urls = [url for folder in config.folders for url in expand(folder)]
        for url in urls:
            cache.check(url)
        self.config = config
        self.samples = SampleStream(config, urls, cache, tokenizer, seed)
        self.collate = Collate(tokenizer.pad_id, config.normalisation, Slabs())
        self.rank = rank
        self.world = world
        self.accumulate = accumulate
        self.tally = Tally(config.max_bad_share, world)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Micro batches from global step `start_step` on.

        Raises DataError when too many samples are bad; of several ranks that is for the run to judge (`Tally`).
        """
        share = self.config.batch_size // (self.world * self.accumulate)
        start = start_step * self.accumulate
        loader: DataLoader[Read] = DataLoader(
            _Batches(self.samples, self.collate, share, start, self.rank, self.world),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.config.workers,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="forkserver" if self.config.workers else None,
            worker_init_fn=die_with_the_run,
        )
        for read in loader:
            if read.batch is None:
                raise DataError(f"a whole batch is bad, the first sample: {read.bad[0]}")
            self.tally.add(len(read.batch), read.bad)
            yield read.batch

    def report(self) -> dict[str, int]:
        """Bad samples met so far, by cause."""
        return dict(self.tally.bad)


def _check(config: DataConfig) -> None:
    local = [folder for folder in config.folders if not is_remote(folder)]
    if local:
        raise DataError(f"data.train names {local[0]} beside URLs; fetch the remote shards and index them, to mix them")
    if not config.cache:
        raise DataError("data.cache is not set; give the folder that is to hold remote shards while they are read")
    if isinstance(config.train, dict) and len(set(config.train.values())) > 1:
        raise DataError("remote shards have no weights: they are read one after another")
    wanted = {"use_features", "use_regions", "use_tags", "use_graph"}
    kept = [name for name in sorted(wanted) if getattr(config, name)]
    if kept or not config.use_pictures or config.captions or config.block > 1 or config.length_group > 1:
        names = ", ".join(kept) or "use_pictures=false, captions, block and length_group"
        raise DataError(f"remote shards give pictures with one caption each; data.{names} needs indexed, local shards")
