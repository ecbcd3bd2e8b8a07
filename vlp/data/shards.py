"""Indexed WebDataset shards: plain tar files that any tar reader opens, with an index for reading at a position.

A folder holds `shard-000000.tar ...`, beside each `shard-000000.index.npy` (where every member lies), and
`index.json` (counts, sizes, checksums), written last: a folder with an index is complete. One sample is one picture
with all its captions; `{key}.json` is `{"image_id": int, "filename": str, "captions": [{"id": int, "text": str},
...]}`. Tars of another make are indexed where they lie (`vlp data index`): their `{key}.json` are then in
`NAME.records.tar` beside them.
"""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.data.errors import BadSampleError, DataError

INDEX = "index.json"
VERSION = 1
PICTURES = ("jpg", "png", "webp")
SUFFIXES = (*PICTURES, "json", "regions.safetensors", "features.safetensors", "truth.json", "masks.png")
KEY = re.compile(r"[A-Za-z0-9_\-]{1,64}")
Table = NDArray[np.int64]  # (samples, 1 + 2 * suffixes): captions, then offset and size of each suffix, -1 if absent


class ShardWriter:
    """Writes a folder of shards. Each tar appears under its name when whole, and the index when all are.

    with ShardWriter(folder, samples_per_shard=1000) as writer:
        writer.add("000123", {"jpg": picture, "json": record})
    """

    def __init__(
        self, folder: Path | str, samples_per_shard: int = 1000, finished: list[dict[str, Any]] | None = None
    ) -> None:
        """`finished` are the records (`shards`) of an interrupted writer to go on from."""
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / INDEX).exists():
            raise DataError(f"{self.folder} already holds a complete set of shards; remove it or choose another folder")
        self.samples_per_shard = samples_per_shard
        self.shards: list[dict[str, Any]] = list(finished or [])
        self.rows: list[list[int]] = []
        self.keys: set[str] = set()  # of the shard being written
        self.tar: tarfile.TarFile | None = None

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one picture. Raises DataError for an unsafe or repeated key, an unknown suffix or an empty caption."""
        if not KEY.fullmatch(key):
            raise DataError(f"key {key!r} is not made of 1 to 64 letters, digits, '_' or '-'")
        if key in self.keys:  # tar readers would take the two for one sample
            raise DataError(f"key {key!r} is already in this shard; give each picture a key of its own")
        unknown = sorted(set(members) - set(SUFFIXES))
        if unknown or "json" not in members:
            raise DataError(f"sample {key}: members {unknown or ['json']} are {'unknown' if unknown else 'missing'}")
        captions = json.loads(members["json"])["captions"]
        if not captions or any(not c["text"].strip() for c in captions):
            raise DataError(f"sample {key}: a picture needs captions, each with text")
        if self.tar is None:
            self._open()
        row = [len(captions)] + [-1] * (2 * len(SUFFIXES))
        for suffix in sorted(members):
            place = 1 + 2 * SUFFIXES.index(suffix)
            row[place : place + 2] = self._append(f"{key}.{suffix}", members[suffix])
        self.rows.append(row)
        self.keys.add(key)
        if len(self.rows) == self.samples_per_shard:
            self.flush()

    def _append(self, name: str, data: bytes) -> list[int]:
        assert self.tar is not None
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        start = self.tar.offset + tarfile.BLOCKSIZE
        self.tar.addfile(info, io.BytesIO(data))
        return [start, len(data)]

    def _name(self) -> str:
        return f"shard-{len(self.shards):06d}"

    def _open(self) -> None:
        # USTAR and zeroed times: one header block a member, and the same bytes for the same input.
        part = self.folder / f"{self._name()}.tar.part"
        self.tar = tarfile.open(part, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - open until the shard is full

    def flush(self) -> None:
        """Finish the shard that is being written, full or not; the next picture begins another."""
        if self.tar is None:
            return
        self.tar.close()
        name, part = self._name(), self.folder / f"{self._name()}.tar.part"
        table = np.array(self.rows, dtype=np.int64)
        with open(self.folder / f"{name}.index.npy", "wb") as file:
            np.save(file, table, allow_pickle=False)
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = part.stat().st_size
        os.replace(part, self.folder / f"{name}.tar")
        captions = int(table[:, 0].sum())
        self.shards.append(
            {"file": f"{name}.tar", "samples": len(table), "captions": captions, "bytes": size, "sha256": digest}
        )
        self.tar, self.rows, self.keys = None, [], set()

    def close(self) -> None:
        """Finish the last shard and write the index. Raises DataError when nothing was added."""
        self.flush()
        if not self.shards:
            raise DataError(f"{self.folder}: no sample was written")
        record = {
            "version": VERSION,
            "suffixes": SUFFIXES,
            "samples": sum(s["samples"] for s in self.shards),
            "captions": sum(s["captions"] for s in self.shards),
            "shards": self.shards,
        }
        part = self.folder / f"{INDEX}.part"
        part.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(part, self.folder / INDEX)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self.tar is not None:
            self.tar.close()


class ShardFolder:
    """Reads members of a shard folder by position, without scanning a tar.

    Opening checks that every shard is there with the size that the index gives. Raises DataError naming the file.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        record = self._read_index()
        self.suffixes: list[str] = record["suffixes"]
        self.shards: list[dict[str, Any]] = record["shards"]
        self.num_samples: int = record["samples"]
        self.num_captions: int = record["captions"]
        if not self.num_samples or not self.num_captions:
            raise DataError(f"{self.folder} is an empty data set")
        for shard in self.shards:
            self._check_shard(shard)
        self.first_sample = np.cumsum([0] + [s["samples"] for s in self.shards])
        self.first_caption = np.cumsum([0] + [s["captions"] for s in self.shards])
        self._tables: dict[int, Table] = {}
        self._captions: dict[int, Table] = {}
        self._files: dict[str, int] = {}

    def _read_index(self) -> dict[str, Any]:
        path = self.folder / INDEX
        if not path.is_file():
            there = "exists but has no" if self.folder.is_dir() else "does not exist, so there is no"
            raise DataError(f"{self.folder} {there} {INDEX}; make shards with `vlp data ...`")
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            _check_index(record)
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{path} cannot be read ({reason}); make the shards again") from error
        return record

    def _check_shard(self, shard: dict[str, Any]) -> None:
        if "records" in shard:
            self._check_shard(shard["records"] | {"samples": shard["samples"]})
        path = self.folder / shard["file"]
        if not path.is_file():
            raise DataError(f"shard {path} is missing ({shard['samples']} samples); copy it back or make the set again")
        size = path.stat().st_size
        if size != shard["bytes"]:
            raise DataError(
                f"shard {path} has {size} bytes, but its index says {shard['bytes']}: it is truncated or was changed; "
                "copy it again or make the set again"
            )

    def table(self, shard: int) -> Table:
        """The member table of a shard, memory-mapped."""
        if shard not in self._tables:
            path = (self.folder / self.shards[shard]["file"]).with_suffix(".index.npy")
            try:
                # As a plain array: indexing a memmap is several times slower.
                table: Table = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError) as error:
                raise DataError(f"{path} cannot be read ({error}); make the set again") from error
            if table.shape != (self.shards[shard]["samples"], 1 + 2 * len(self.suffixes)):
                raise DataError(f"{path} does not fit its shard; make the set again")
            self._tables[shard] = table
        return self._tables[shard]

    def locate(self, sample: int) -> tuple[int, int]:
        """Shard and row of a sample number."""
        shard = int(np.searchsorted(self.first_sample, sample, side="right")) - 1
        return shard, sample - int(self.first_sample[shard])

    def locate_pair(self, pair: int) -> tuple[int, int, int]:
        """Shard, row and caption number of a pair (a picture with one of its captions)."""
        shard = int(np.searchsorted(self.first_caption, pair, side="right")) - 1
        if shard not in self._captions:
            self._captions[shard] = np.cumsum(self.table(shard)[:, 0])
        ends, place = self._captions[shard], pair - int(self.first_caption[shard])
        row = int(np.searchsorted(ends, place, side="right"))
        return shard, row, place - (int(ends[row - 1]) if row else 0)

    def captions_of(self, shard: int, row: int) -> int:
        """How many captions a picture has."""
        return int(self.table(shard)[row, 0])

    def has(self, shard: int, row: int, suffix: str) -> bool:
        """Whether the sample has this member."""
        return self._place(shard, row, suffix)[0] >= 0

    def _place(self, shard: int, row: int, suffix: str) -> list[int]:
        """Offset and size of a member in its tar, -1 where the sample has none."""
        if suffix not in self.suffixes:
            return [-1, -1]
        column = 1 + 2 * self.suffixes.index(suffix)
        place: list[int] = self.table(shard)[row, column : column + 2].tolist()
        return place

    def read(self, shard: int, row: int, suffix: str) -> bytes | None:
        """Bytes of a member, None where the sample has none. Raises BadSampleError where the tar ends too early."""
        offset, size = self._place(shard, row, suffix)
        if offset < 0:
            return None
        data = os.pread(self._file(shard, suffix), size, offset)
        if len(data) != size:
            raise BadSampleError("shard ends too early", self.name(shard, row))
        return data

    def tail(self, shard: int, row: int, suffix: str, count: int) -> bytes | None:
        """The last bytes of a member, for cheap checks of completeness."""
        offset, size = self._place(shard, row, suffix)
        if offset < 0:
            return None
        count = min(count, size)
        return os.pread(self._file(shard, suffix), count, offset + size - count)

    def key(self, shard: int, row: int) -> str:
        """The sample's key, from the tar header of its json member."""
        offset, _ = self._place(shard, row, "json")
        header = os.pread(self._file(shard, "json"), 100, offset - tarfile.BLOCKSIZE)
        return header.split(b"\0")[0].decode("utf-8", "replace").removesuffix(".json")

    def name(self, shard: int, row: int) -> str:
        """`folder/shard.tar: key`, for messages."""
        return f"{self.folder / self.shards[shard]['file']}: {self.key(shard, row)}"

    def _file(self, shard: int, suffix: str) -> int:
        name = self.file_of(shard, suffix)
        if name not in self._files:
            self._files[name] = os.open(self.folder / name, os.O_RDONLY)
        return self._files[name]

    def file_of(self, shard: int, suffix: str) -> str:
        """The tar that holds the members of a suffix: the records of tars of another make have one of their own."""
        record = self.shards[shard]
        name: str = record["records"]["file"] if suffix == "json" and "records" in record else record["file"]
        return name

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": {}, "_captions": {}, "_files": {}}


def _check_index(record: dict[str, Any]) -> None:
    """Raise KeyError for a field that is missing and ValueError for numbers that do not fit each other."""
    if record["version"] != VERSION:
        raise ValueError(f"version {record['version']}, this program reads {VERSION}")
    if "json" not in record["suffixes"]:
        raise ValueError("suffixes without json")
    for what in ("samples", "captions"):
        total = sum(shard[what] for shard in record["shards"])
        if record[what] != total:
            raise ValueError(f"{record[what]} {what}, its shards hold {total}")
    for shard in record["shards"] + [shard["records"] for shard in record["shards"] if "records" in shard]:
        if Path(shard["file"]).name != shard["file"] or not isinstance(shard["bytes"], int):
            raise ValueError(f"shard {shard['file']!r}, {shard['bytes']!r} bytes")
