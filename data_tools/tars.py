"""What lies where in a tar, read header by header, so that damage is seen and what lies behind it is found again.

Python's tarfile takes a corrupt header for the end of the archive. Here the search goes on at the next valid header.
"""

import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = tarfile.BLOCKSIZE
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
LONG_NAMES = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
LONGEST_HEADER = 1 << 20  # of a header that holds a long name


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar."""

    name: str
    offset: int  # of its bytes
    size: int


@dataclass
class Scan:
    """The whole files of a tar, and what is wrong with it."""

    members: list[Member] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def scan(path: Path) -> Scan:
    """Read every header of a tar. Links, devices and folders are no members and are named."""
    found, place, name = Scan(), 0, ""
    file, end = os.open(path, os.O_RDONLY), path.stat().st_size
    try:
        while place + BLOCK <= end:
            block = os.pread(file, BLOCK, place)
            if not block.strip(b"\0"):  # the end, or padding: tars that were joined go on behind it
                place += BLOCK
                continue
            header = parse(block)
            if header is None:
                after = _next_header(file, place + BLOCK, end)
                found.faults.append(f"bytes {place} to {after} hold no tar header: damaged")
                place, name = after, ""
                continue
            begin = place + BLOCK
            place = begin + -(-header.size // BLOCK) * BLOCK
            if begin + header.size > end:
                found.faults.append(f"ends too early: {header.name!r} of {header.size} bytes is cut")
            elif header.type in LONG_NAMES and header.size <= LONGEST_HEADER:
                name = long_name(header.type, os.pread(file, header.size, begin)) or name
                continue
            elif header.type in REGULAR:
                found.members.append(Member(name or header.name, begin, header.size))
            elif header.type not in (tarfile.DIRTYPE, tarfile.XGLTYPE):
                found.faults.append(f"{name or header.name!r} is a link or a device, no file: left out")
            name = ""
    finally:
        os.close(file)
    if not end or (end % BLOCK and not found.faults[-1:]):
        found.faults.append("empty file" if not end else f"{end} bytes are no whole blocks: the end is cut")
    return found


def parse(block: bytes) -> tarfile.TarInfo | None:
    """A header, None where the block is none."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return header if header.size >= 0 else None


def _next_header(file: int, place: int, end: int) -> int:
    while place + BLOCK <= end:
        block = os.pread(file, BLOCK, place)
        if block[257:262] == b"ustar" and parse(block) is not None:
            return place
        place += BLOCK
    return end


def long_name(kind: bytes, data: bytes) -> str:
    """The name that a pax or GNU header gives to the next member; empty where it gives none."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")
    for line in data.split(b"\n"):
        _, _, entry = line.partition(b" ")
        if entry.startswith(b"path="):
            return entry.removeprefix(b"path=").decode("utf-8", "surrogateescape")
    return ""


def by_sample(members: list[Member]) -> tuple[dict[str, dict[str, Member]], list[str]]:
    """Members by key and suffix as WebDataset names them (the key ends at the first dot), and what repeats."""
    samples: dict[str, dict[str, Member]] = {}
    faults = []
    for member in members:
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        kinds = samples.setdefault(key, {})
        if suffix.lower() in kinds:
            faults.append(f"{member.name!r} is there twice: the first counts")
        kinds.setdefault(suffix.lower(), member)
    return samples, faults
