"""Indexed WebDataset shards: plain tar files that any tar reader opens, with an index for reading at a position.

A folder holds `shard-000000.tar ...`, beside each `shard-000000.index.npy` (where every member lies) and
`shard-000000.crc32.npy` (a CRC-32 of each), and `index.json` (counts, sizes, checksums), written last: a folder with an
index is complete. One sample is one picture with all its captions; `{key}.json` is `{"image_id": int, "filename": str,
"captions": [{"id": int, "text": str}, ...]}`. Tars of another make are indexed where they lie (`vlp data index`): their
`{key}.json` are then in `NAME.records.tar` beside them.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vlp.data.checksums import KIND, Checksums, read_checksums, write_checksums
from vlp.data.damage import Damage, find_damage
from vlp.data.errors import BadSampleError, DataError
from vlp.data.open_shard import OpenShard, Table, read_table
from vlp.data.record import MEMBER_BYTES, TEXT_BYTES

INDEX = "index.json"
VERSION = 1
PICTURES = ("jpg", "png", "webp")
SUFFIXES = (*PICTURES, "json", "regions.safetensors", "features.safetensors", "truth.json", "masks.png")
MOST_OPEN = 224  # shards open at a time, two files each: what a window needs; a process may usually have 1,024
KEY = re.compile(r"[A-Za-z0-9_\-]{1,64}")


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
        self.sums: list[list[int]] = []
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
        row, sums = [len(captions)] + [-1] * (2 * len(SUFFIXES)), [0] * len(SUFFIXES)
        for suffix in sorted(members):
            number = SUFFIXES.index(suffix)
            row[1 + 2 * number : 3 + 2 * number] = self._append(f"{key}.{suffix}", members[suffix])
            sums[number] = zlib.crc32(members[suffix])
        self.rows.append(row)
        self.sums.append(sums)
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
        write_checksums(self.folder / f"{name}.tar", self.sums)
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = part.stat().st_size
        os.replace(part, self.folder / f"{name}.tar")
        counts = {"samples": len(table), "captions": int(table[:, 0].sum())}
        sums = {"bytes": size, "sha256": digest, "checksums": KIND}
        self.shards.append({"file": f"{name}.tar"} | counts | sums)
        self.tar, self.rows, self.sums, self.keys = None, [], [], set()

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
    """Reads members of a shard folder by position, without scanning a tar; few files are open at a time.

    Opening compares the size of every shard with the index. Raises DataError naming the first that is damaged; with
    `damaged_ok` they are kept in `damaged` instead, and only reading what is lost raises BadSampleError.
    """

    def __init__(self, folder: Path | str, *, damaged_ok: bool = False) -> None:
        self.folder = Path(folder)
        record = self._read_index()
        self.suffixes: list[str] = record["suffixes"]
        self.shards: list[dict[str, Any]] = record["shards"]
        self.num_samples: int = record["samples"]
        self.num_captions: int = record["captions"]
        if not self.num_samples or not self.num_captions:
            raise DataError(f"{self.folder} is an empty data set")
        self.columns = 1 + 2 * len(self.suffixes)
        found = ((i, find_damage(self.folder, shard, self.columns)) for i, shard in enumerate(self.shards))
        self.damaged: dict[int, Damage] = {i: damage for i, damage in found if damage is not None}
        if self.damaged and not damaged_ok:
            raise DataError(next(iter(self.damaged.values())).message)
        self.first_sample = np.cumsum([0] + [s["samples"] for s in self.shards])
        self.first_caption = np.cumsum([0] + [s["captions"] for s in self.shards])
        self.most_open = MOST_OPEN
        self._open: dict[int, OpenShard] = {}
        self._last: tuple[tuple[int, int], list[int]] = ((-1, -1), [])

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

    def table(self, shard: int) -> Table:
        """The member table of a shard, memory-mapped. Raises DataError where it cannot be used."""
        return read_table(self._path(shard), self.shards[shard], self.columns)

    def checksums(self, shard: int) -> Checksums | None:
        """CRC-32 of a shard's members, (samples, suffixes); None where its index was made without them.

        Raises DataError where they cannot be used.
        """
        record = self.shards[shard]
        if record.get("checksums") != KIND:
            return None
        return read_checksums(self._path(shard), record["samples"], len(self.suffixes))

    def lost(self, suffixes: Collection[str]) -> dict[int, int]:
        """For each damaged shard, how many of its samples miss one of these members."""
        counts = {}
        for shard, damage in self.damaged.items():
            counts[shard] = self.shards[shard]["samples"]
            here = [s for s in suffixes if s in self.suffixes and self.file_of(shard, s) == self.shards[shard]["file"]]
            columns = [1 + 2 * self.suffixes.index(s) for s in here]
            if damage.size and columns:
                table = self.table(shard)
                ends = np.stack([table[:, c] + table[:, c + 1] for c in columns])
                counts[shard] = int((ends.max(0) > damage.size).sum())
        return counts

    def _path(self, shard: int) -> Path:
        return self.folder / str(self.shards[shard]["file"])

    def locate(self, sample: int) -> tuple[int, int]:
        """Shard and row of a sample number."""
        shard = int(self.first_sample.searchsorted(sample, side="right")) - 1
        return shard, sample - int(self.first_sample[shard])

    def locate_pair(self, pair: int) -> tuple[int, int, int]:
        """Shard, row and caption number of a pair (a picture with one of its captions).

        Raises BadSampleError where the shard's member table is damaged.
        """
        shard = int(self.first_caption.searchsorted(pair, side="right")) - 1
        ends, place = self._opened(shard).captions, pair - int(self.first_caption[shard])
        row = int(ends.searchsorted(place, side="right"))
        return shard, row, place - (int(ends[row - 1]) if row else 0)

    def captions_of(self, shard: int, row: int) -> int:
        """How many captions a picture has."""
        return self._row(shard, row)[0]

    def has(self, shard: int, row: int, suffix: str) -> bool:
        """Whether the sample has this member."""
        return self._place(shard, row, suffix)[0] >= 0

    def _place(self, shard: int, row: int, suffix: str) -> list[int]:
        """Offset and size of a member in its tar, -1 where the sample has none."""
        if suffix not in self.suffixes:
            return [-1, -1]
        column = 1 + 2 * self.suffixes.index(suffix)
        return self._row(shard, row)[column : column + 2]

    def _row(self, shard: int, row: int) -> list[int]:
        if self._last[0] != (shard, row):
            self._last = ((shard, row), self._opened(shard).row(row))
        return self._last[1]

    def read(self, shard: int, row: int, suffix: str) -> bytes | None:
        """Bytes of a member, None where the sample has none. Raises BadSampleError where it cannot be had."""
        offset, size = self._place(shard, row, suffix)
        if offset < 0:
            return None
        limit = TEXT_BYTES if suffix == "json" else MEMBER_BYTES
        if size > limit:
            raise BadSampleError(f"{suffix} too large", self.name(shard, row), f"{size} bytes, at most {limit}")
        return self._bytes(shard, row, suffix, size, offset)

    def tail(self, shard: int, row: int, suffix: str, count: int) -> bytes | None:
        """The last bytes of a member, for cheap checks of completeness. Raises BadSampleError like `read`."""
        offset, size = self._place(shard, row, suffix)
        if offset < 0:
            return None
        count = min(count, size)
        return self._bytes(shard, row, suffix, count, offset + size - count)

    def _bytes(self, shard: int, row: int, suffix: str, size: int, offset: int) -> bytes:
        damage, name = self.damaged.get(shard), self.file_of(shard, suffix)
        if damage is not None and name == self.shards[shard]["file"] and offset + size > damage.size:
            raise BadSampleError(damage.cause, self.name(shard, row), foreseen=True)
        try:
            data = self._opened(shard).read(name, size, offset)
        except OSError as error:
            raise BadSampleError("shard unreadable", str(self._path(shard)), str(error)) from error
        if len(data) != size:
            raise BadSampleError("shard ends too early", self.name(shard, row))
        return data

    def file_of(self, shard: int, suffix: str) -> str:
        """The tar that holds the members of a suffix: the records of tars of another make have one of their own."""
        record = self.shards[shard]
        name: str = record["records"]["file"] if suffix == "json" and "records" in record else record["file"]
        return name

    def key(self, shard: int, row: int) -> str:
        """The sample's key, from the tar header of its json member; "" where that is lost."""
        offset, _ = self._place(shard, row, "json")
        header = (
            self._opened(shard).read(self.file_of(shard, "json"), 100, offset - tarfile.BLOCKSIZE)
            if offset > 0
            else b""
        )
        return header.split(b"\0")[0].decode("utf-8", "replace").removesuffix(".json")

    def name(self, shard: int, row: int) -> str:
        """`folder/shard.tar: key`, for messages."""
        return f"{self._path(shard)}: {self.key(shard, row) or f'row {row}'}"

    def _opened(self, shard: int) -> OpenShard:
        """The shard's files, opened at need; the one that was used longest ago is closed.

        Raises BadSampleError where they cannot be opened.
        """
        found = self._open.pop(shard, None)
        if found is None:
            found = self._open_shard(shard)
            while len(self._open) >= self.most_open:
                self._open.pop(next(iter(self._open))).close()
        self._open[shard] = found
        return found

    def _open_shard(self, shard: int) -> OpenShard:
        path, damage = self._path(shard), self.damaged.get(shard)
        if damage is not None and not damage.size:
            raise BadSampleError(damage.cause, str(path), foreseen=True)
        try:
            return OpenShard(path, self.shards[shard], self.columns)
        except (DataError, OSError) as error:
            raise BadSampleError("shard unreadable", str(path), str(error)) from error

    def close(self) -> None:
        """Close every file; reading opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


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
