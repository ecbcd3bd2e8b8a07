"""A look at a data set before a run starts: what is lost with damaged shards, exactly, and a sample of the rest."""

import warnings
from collections.abc import Iterator

import numpy as np

from vlp.data.dataset import FEATURES, REGIONS, PairDataset
from vlp.data.errors import BadSampleError, DataError
from vlp.data.images import looks_whole
from vlp.data.shards import PICTURES

ALL = 100_000  # sets of up to so many pictures are looked at one by one
PLACES, STRETCH = 32, 128  # of a larger one, so many stretches of so many neighbours
DECODED = 64  # pictures or tensor files that are decoded as well
NAMED = 10  # damaged shards, and bad samples, that a message names


def preflight(dataset: PairDataset) -> None:
    """Count what damaged shards lose, and look at records and at the ends of pictures.

    Raises DataError naming them when their share passes `max_bad_share`, else warns.
    """
    lost = dataset.shards.lost(dataset.members())
    looked = list(_numbers(dataset.num_pictures))
    deep = set(looked[:: -(-len(looked) // DECODED)])
    found = [error for i in looked if (error := _look(dataset, *dataset.shards.locate(i), i in deep))]
    bad = [error for error in found if not error.foreseen]
    if not bad and not lost:
        return
    message = "\n".join([*_lost_lines(dataset, lost), *_bad_lines(dataset, bad, len(looked))])
    share = sum(lost.values()) / dataset.num_pictures + len(bad) / len(looked)
    if share > dataset.config.max_bad_share:
        limit = f"{share:.2%} of the samples, and data.max_bad_share allows {dataset.config.max_bad_share:.2%}"
        raise DataError(
            f"{message}\nThis is {limit}. Mend or drop them and make the shards again, or raise data.max_bad_share"
        )
    warnings.warn(message, stacklevel=2)


def _numbers(count: int) -> Iterator[int]:
    if count <= ALL:
        yield from range(count)
        return
    for start in np.linspace(0, count - STRETCH, PLACES).astype(int).tolist():
        yield from range(start, start + STRETCH)


def _lost_lines(dataset: PairDataset, lost: dict[int, int]) -> list[str]:
    if not lost:
        return []
    total, shards = sum(lost.values()), dataset.shards
    head = f"{total} of {dataset.num_pictures} samples of {shards.folder} are lost with damaged shards:"
    lines = [
        f"  {shards.damaged[i].message} ({count} of {shards.shards[i]['samples']} samples lost)"
        for i, count in list(lost.items())[:NAMED]
    ]
    return [head, *lines, *([f"  and {len(lost) - NAMED} shards more"] if len(lost) > NAMED else [])]


def _bad_lines(dataset: PairDataset, bad: list[BadSampleError], looked: int) -> list[str]:
    if not bad:
        return []
    head = f"{len(bad)} of {looked} samples of {dataset.shards.folder} are bad:"
    return [head, *(f"  {error}" for error in bad[:NAMED])]


def _look(dataset: PairDataset, shard: int, row: int, deep: bool) -> BadSampleError | None:
    config = dataset.config
    try:
        dataset.record(shard, row)
        if config.use_regions:
            _look_at_tensors(dataset, shard, row, REGIONS, deep)
        if config.use_features:
            _look_at_tensors(dataset, shard, row, FEATURES, deep)
        elif config.use_pictures:
            _look_at_end(dataset, shard, row)
            if deep:
                dataset.picture(shard, row)
    except BadSampleError as error:
        return error
    return None


def _look_at_tensors(dataset: PairDataset, shard: int, row: int, suffix: str, deep: bool) -> None:
    if not dataset.shards.has(shard, row, suffix):
        raise BadSampleError(f"no {suffix}", dataset.shards.name(shard, row))
    if deep:
        dataset.features(shard, row) if suffix == FEATURES else dataset.regions(shard, row)


def _look_at_end(dataset: PairDataset, shard: int, row: int) -> None:
    for kind in PICTURES:
        tail = dataset.shards.tail(shard, row, kind, 64)
        if tail is not None:
            if not looks_whole(kind, tail):
                dataset.picture(shard, row)  # decoding decides: some writers put data behind the end
            return
    raise BadSampleError("no picture", dataset.shards.name(shard, row))
