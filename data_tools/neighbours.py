"""64-bit hashes within a Hamming distance of one another, without comparing all pairs.

Hashes are cut into four parts of 16 bits. Two that differ in at most r bits agree in one part up to r // 4 bits, so it
is enough to look at the parts of each hash and at their neighbours (multi-index hashing, Norouzi 2012). The smaller
set is indexed; the other may be of any size, for it goes past in pieces.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

PARTS, WIDTH = 4, 16
FARTHEST = 11  # radius up to which parts are looked up with at most two bits changed
PAIRS = 20_000_000  # candidates held at a time
Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class Neighbours:
    """An index of hashes (N,)."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        self.orders: list[Numbers] = []
        self.starts: list[Numbers] = []
        for part in range(PARTS):
            keys = part_of(hashes, part)
            self.orders.append(np.argsort(keys, kind="stable"))
            counts = np.bincount(keys, minlength=1 << WIDTH)
            self.starts.append(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def within(self, others: Hashes, radius: int) -> tuple[Numbers, Numbers]:
        """(number in `others`, number in the index) of all pairs that differ in at most `radius` bits, sorted."""
        if not 0 <= radius <= FARTHEST:
            raise ValueError(f"radius {radius} is not between 0 and {FARTHEST}")
        found = [np.empty((0, 2), np.int64)]
        for part in range(PARTS):
            keys = part_of(others, part)
            for change in changes(radius // PARTS):
                found += self._look_up(others, keys ^ change, part, radius)
        pairs = np.unique(np.concatenate(found), axis=0)
        return pairs[:, 0], pairs[:, 1]

    def _look_up(self, others: Hashes, keys: Numbers, part: int, radius: int) -> list[Numbers]:
        begin, end = self.starts[part][keys], self.starts[part][keys + 1]
        counts, found, first = end - begin, [], 0
        while first < len(others):  # in pieces of a bounded number of candidates
            last = first + max(int(np.searchsorted(np.cumsum(counts[first:]), PAIRS, side="right")), 1)
            here, many = np.arange(first, min(last, len(others))), counts[first:last]
            left = np.repeat(here, many)
            place = np.arange(len(left)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(begin[first:last], many)
            right = self.orders[part][place]
            near = np.bitwise_count(others[left] ^ self.hashes[right]) <= radius
            found.append(np.stack([left[near], right[near]], axis=1))
            first = last
        return found


def part_of(hashes: Hashes, part: int) -> Numbers:
    """16 of the 64 bits of each."""
    return ((hashes >> np.uint64(WIDTH * part)) & np.uint64((1 << WIDTH) - 1)).astype(np.int64)


def changes(bits: int) -> list[int]:
    """Every way to change at most so many of 16 bits."""
    return [
        sum(1 << place for place in places) for count in range(bits + 1) for places in combinations(range(WIDTH), count)
    ]
