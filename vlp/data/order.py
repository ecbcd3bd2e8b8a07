"""The order of samples: a pure function of (seed, epoch, position), for any number of ranks and workers."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of `count` blocks in an epoch. 8 bytes a block, two epochs kept a process."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def sample_at(count: int, seed: int, position: int, block: int = 1) -> tuple[int, int]:
    """(epoch, sample) at a global position; positions run on through the epochs, each a fresh permutation.

    With `block` > 1 it is blocks of so many neighbours that are permuted: neighbours stay together. The samples that
    fill no block end the epoch.
    """
    epoch, place = divmod(position, count)
    whole = count // block
    if place >= whole * block:
        return epoch, place
    number, inside = divmod(place, block)
    return epoch, int(permutation(whole, seed, epoch)[number]) * block + inside


def positions(step: int, micro: int, *, batch_size: int, accumulate: int, rank: int, world: int) -> range:
    """The positions that a rank reads in a micro step.

    A global step s covers [s * batch_size, (s + 1) * batch_size) whatever the world: micro steps cut it into equal
    runs, ranks cut each run into equal slices.
    """
    share = batch_size // (accumulate * world)
    start = step * batch_size + micro * share * world + rank * share
    return range(start, start + share)
