"""The order of samples: a pure function of (seed, epoch, position), for any number of ranks and workers.

Two levels, so that memory stays constant and disks read on: runs of RUN neighbours change places over the whole epoch
(a Feistel network, nothing is stored), and the units of a window of runs are permuted (8 bytes a unit, a few windows
kept). A set that fits one window is permuted whole.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RUN = 512  # units (blocks) that stay in one window: what is read from one place of the disk
WINDOW = 128 * RUN  # units that are mixed at a time
WORD = (1 << 64) - 1


@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int, window: int = 0) -> NDArray[np.int64]:
    """The order of the `count` units of a window. 8 bytes a unit, four windows kept a process."""
    bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, window, 0])
    return np.random.Generator(bits).permutation(count)


def scramble(number: int) -> int:
    """A 64-bit hash of a 64-bit number: the finaliser of SplitMix64 (Steele 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & WORD
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & WORD
    return number ^ (number >> 31)


@lru_cache(maxsize=4096)
def permuted(number: int, count: int, seed: int, epoch: int) -> int:
    """Where a bijection of 0 .. count - 1 takes `number`, without storing it.

    Eight rounds of a balanced Feistel network over the next power of four, walked on while the image lies outside
    (Black and Rogaway 2002): on average fewer than four walks.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    key = scramble(scramble(seed & WORD) ^ epoch)
    while True:
        left, right = number >> half, number & mask
        for turn in range(8):
            left, right = right, left ^ (scramble(key ^ (turn << 56) ^ right) & mask)
        number = (left << half) | right
        if number < count:
            return number


def unit_at(count: int, seed: int, epoch: int, place: int, window: int = WINDOW) -> int:
    """The unit at a place of an epoch of `count` units; windows of `window` units, a multiple of RUN, the last of them
    up to twice as long. Units that fill no run end the epoch's last window."""
    windows = max(1, count // window)
    number = min(place // window, windows - 1)
    start = number * window
    length = count - start if number == windows - 1 else window
    place = start + int(permutation(length, seed, epoch, number)[place - start])
    run, inside = divmod(place, RUN)
    if windows == 1 or run >= count // RUN:
        return place
    return permuted(run, count // RUN, seed, epoch) * RUN + inside


def sample_at(count: int, seed: int, position: int, block: int = 1, window: int = WINDOW) -> tuple[int, int]:
    """(epoch, sample) at a global position; positions run on through the epochs, each a fresh permutation.

    With `block` > 1 the units that are permuted are blocks of so many neighbours: neighbours stay together. The
    samples that fill no block end the epoch.
    """
    epoch, place = divmod(position, count)
    whole = count // block
    if place >= whole * block:
        return epoch, place
    number, inside = divmod(place, block)
    return epoch, unit_at(whole, seed, epoch, number, window) * block + inside


def positions(step: int, micro: int, *, batch_size: int, accumulate: int, rank: int, world: int) -> range:
    """The positions that a rank reads in a micro step.

    A global step s covers [s * batch_size, (s + 1) * batch_size) whatever the world: micro steps cut it into equal
    runs, ranks cut each run into equal slices.
    """
    share = batch_size // (accumulate * world)
    start = step * batch_size + micro * share * world + rank * share
    return range(start, start + share)
