"""One shard held open: its members' bytes, and the table that says where they lie."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.data.damage import HEADER
from vlp.data.errors import DataError

Table = NDArray[np.int64]  # (samples, 1 + 2 * suffixes): captions, then offset and size of each suffix, -1 if absent


def read_table(tar: Path, record: dict[str, Any], columns: int) -> Table:
    """The member table beside a tar, memory-mapped. Raises DataError where it cannot be read or fits no such tar."""
    path = tar.with_suffix(".index.npy")
    try:
        table: Table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); make the set again") from error
    if table.shape != (record["samples"], columns) or table.dtype != np.int64:
        raise DataError(f"{path} does not fit its shard; make the set again")
    places = table[:, 1:]
    ends, most = (places[:, ::2] + places[:, 1::2]).max(), max(record["bytes"], record.get("records", record)["bytes"])
    if table[:, 0].sum() != record["captions"] or table[:, 0].min() < 1 or places.min() < -1 or ends > most:
        raise DataError(f"{path} holds numbers that fit no such shard; make the set again")
    return table


class OpenShard:
    """Two open files, three where records lie in a tar of their own.

    `captions` (samples,): how many captions the shard has up to each row, this one included.
    """

    def __init__(self, tar: Path, record: dict[str, Any], columns: int) -> None:
        """Raises DataError for a table that cannot be used, OSError for a file that cannot be opened."""
        self.captions: Table = np.cumsum(read_table(tar, record, columns)[:, 0])
        self._row = struct.Struct(f"={columns}q")
        self._table = os.open(tar.with_suffix(".index.npy"), os.O_RDONLY)
        names = [record["file"], *([record["records"]["file"]] if "records" in record else [])]
        self._tars = {name: os.open(tar.with_name(name), os.O_RDONLY) for name in names}

    def row(self, row: int) -> list[int]:
        """A row of the table, read from its file: mapped tables would fill the memory of a long run."""
        size = self._row.size
        return list(self._row.unpack(os.pread(self._table, size, HEADER + row * size)))

    def read(self, name: str, size: int, offset: int) -> bytes:
        """Bytes of a tar; fewer where it ends. Raises OSError."""
        return os.pread(self._tars[name], size, offset)

    def close(self) -> None:
        """Close the files."""
        for file in (self._table, *self._tars.values()):
            os.close(file)
