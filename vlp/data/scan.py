"""The samples of a tar without an index, found by walking its headers; damage costs the members that it hits."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
WANTED = ("jpg", "jpeg", "png", "webp", "json", "txt")  # no other member is ever looked at


@dataclass
class Scan:
    """Samples in the order of their first members, with offset and size of each; and what was wrong, by cause."""

    samples: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    bad: list[tuple[str, str]] = field(default_factory=list)  # cause, key


def scan(file: BinaryIO) -> Scan:
    """Group members by the part of their name in front of its first dot. Nothing is unpacked."""
    found = Scan()
    for name, offset, size in _members(file, found):
        folder, _, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if suffix not in WANTED:
            continue
        members = found.samples.setdefault(key, {})
        if suffix in members:
            found.bad.append(("duplicate key", key))  # the first one stays
        else:
            members["jpg" if suffix == "jpeg" else suffix] = (offset, size)
    return found


def _members(file: BinaryIO, found: Scan) -> Iterator[tuple[str, int, int]]:
    end = file.seek(0, 2)
    place, lost = 0, False
    while place + BLOCK <= end:
        file.seek(place)
        block = file.read(BLOCK)
        place += BLOCK
        if not block.strip(b"\0"):  # the end, or a hole
            continue
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError:
            if not lost:
                found.bad.append(("damaged tar header", f"byte {place - BLOCK}"))
            lost = True
            continue  # to the next block that is a header
        lost = False
        if header.size > end - place:
            found.bad.append(("shard truncated", header.name))
            return
        if header.isreg():
            yield header.name, place, header.size
        place += -(-header.size // BLOCK) * BLOCK
