"""Shards that are not what their index says, found from names and sizes alone: nothing is read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER = 128  # bytes of a .npy file in front of its numbers, for a table of any length that fits a tar


@dataclass(frozen=True)
class Damage:
    """What is wrong with a shard, and how many of its first bytes can be trusted."""

    cause: str
    size: int
    message: str


def find_damage(folder: Path, shard: dict[str, Any], columns: int) -> Damage | None:
    """Compare a shard and its member table with the index's record of it; None where all is well."""
    path = folder / shard["file"]
    remedy = "copy it again or make the set again"
    if "records" in shard:
        records = find_records_damage(folder / shard["records"]["file"], shard, remedy)
        if records is not None:
            return records
    size, table = _size(path), _size(path.with_suffix(".index.npy"))
    if size is None:
        return Damage("shard missing", 0, f"shard {path} is missing ({shard['samples']} samples); {remedy}")
    expected = HEADER + 8 * shard["samples"] * columns
    if table != expected:
        there = "is missing" if table is None else f"has {table} bytes in place of {expected}"
        return Damage("member table damaged", 0, f"{path.with_suffix('.index.npy')} {there}; {remedy}")
    if size == shard["bytes"]:
        return None
    message = f"shard {path} has {size} bytes, but its index says {shard['bytes']}: it"
    if size > shard["bytes"]:
        return Damage("shard changed", 0, f"{message} was changed; {remedy}")
    cause = "shard truncated" if size else "shard empty"
    return Damage(cause, size, f"{message} is {cause.removeprefix('shard ')}; {remedy}")


def find_records_damage(path: Path, shard: dict[str, Any], remedy: str) -> Damage | None:
    """The same for the records of a tar of another make: without them none of its samples can be read."""
    size, expected = _size(path), shard["records"]["bytes"]
    if size == expected:
        return None
    there = "is missing" if size is None else f"has {size} bytes, but its index says {expected}"
    return Damage("records damaged", 0, f"shard {path} {there} ({shard['samples']} samples); {remedy}")


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
