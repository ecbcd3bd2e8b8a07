"""CRC-32 of every member, beside the member table: a flipped bit is found in its sample, not only in its shard.

Against chance, not against a forger: for that the index has the SHA-256 of every tar. `NAME.crc32.npy` is a table
(samples, suffixes) of uint32, 0 where a sample has no such member. Sets that were made before there were such tables
have none; `vlp data index --rebuild` makes them.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlp.data.errors import DataError

Checksums = NDArray[np.uint32]
KIND = "crc32"  # what the index calls them, in a shard's "checksums"


def write_checksums(tar: Path, rows: Sequence[Sequence[int]]) -> None:
    """Write the table of a tar, beside and then renamed."""
    path = tar.with_suffix(f".{KIND}.npy")
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        np.save(file, np.array(rows, dtype=np.uint32), allow_pickle=False)
    os.replace(part, path)


def read_checksums(tar: Path, samples: int, suffixes: int) -> Checksums:
    """The table of a tar, (samples, suffixes). Raises DataError where it cannot be read or is another tar's."""
    path = tar.with_suffix(f".{KIND}.npy")
    try:
        table: Checksums = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if table.shape != (samples, suffixes) or table.dtype != np.uint32:
        raise DataError(f"{path} does not fit its shard")
    return table
