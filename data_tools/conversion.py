"""Entries of a source to folders of indexed shards: what the importers (`vlp data karpathy`, `albef`, ...) share.

A split that is complete is kept, one that was interrupted goes on at its last whole shard; either only with the
settings that it was begun with. Every picture that is missing or cannot be read and every caption without text is
named on screen and in OUT/report.json.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.parallel import in_order, write_json
from vlp.data.record import MAX_CHARACTERS, MEMBER_BYTES

DEFAULT_BAD_SHARE = 0.01
PROGRESS = "progress.json"
Prepared = tuple[tuple[str, dict[str, bytes], int] | None, list[str]]  # (key, members, captions), and what is wrong


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture of a source and its captions."""

    number: int  # image_id
    places: tuple[str | int, ...]  # where the picture may be: file names below a folder, or the number of a row
    filename: str
    captions: tuple[tuple[int, str], ...]  # (id, text)


@dataclass
class Report:
    """What became of a split, and from what."""

    split: str
    settings: dict[str, Any]
    pictures: int = 0
    captions: int = 0
    lost: int = 0  # pictures left out
    bad: list[str] = field(default_factory=list)  # "file: cause"

    @property
    def bad_share(self) -> float:
        """The share of the pictures, or of the captions, that could not be used, whichever is larger."""
        empty = len(self.bad) - self.lost
        return max(self.lost / max(self.lost + self.pictures, 1), empty / max(empty + self.captions, 1))


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """How much is taken, and how it is written."""
    parser.add_argument("--limit", type=int, help="only the first N pictures of each split")
    parser.add_argument("--resize", type=int, help="shrink pictures to this shorter side, as JPEG of quality 95")
    parser.add_argument("--samples-per-shard", type=int, default=1000, help="pictures a shard (default 1000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument(
        "--max-bad-share", type=float, default=DEFAULT_BAD_SHARE, help="fail above this share (default 0.01)"
    )


def convert(splits: dict[str, list[Entry]], read: Callable[[Entry], bytes], args: argparse.Namespace) -> int:
    """Write every split and a report; 0 when all went well, 1 when too much was bad. `read` gives a picture's bytes."""
    reports = []
    for split, entries in splits.items():
        taken = entries[: args.limit]
        settings = {"entries": digest(taken), "resize": args.resize, "samples_per_shard": args.samples_per_shard}
        prepare_one = partial(prepare, read=read, resize=args.resize)
        fresh = Report(split, settings)
        reports.append(write_split(args.out / split, fresh, taken, prepare_one, args.workers, args.samples_per_shard))
    return summarise(reports, args.out / "report.json", args.max_bad_share)


def digest(items: Sequence[Any]) -> str:
    """What a split is made from (so also --limit), as a checksum."""
    sha = hashlib.sha256()
    for item in items:
        sha.update(json.dumps(astuple(item) if isinstance(item, Entry) else item, default=str).encode() + b"\n")
    return sha.hexdigest()


def write_split(
    folder: Path,
    fresh: Report,
    items: Sequence[Any],
    prepare_one: Callable[[Any], Prepared],
    workers: int,
    samples_per_shard: int,
    bytes_per_shard: int | None = None,
) -> Report:
    """Write one folder of shards, every item by itself and by several processes."""

    def results(start: int) -> Iterator[Prepared]:
        return in_order(prepare_one, items, workers=workers, name=fresh.split, done=start, chunk=16)

    return write_results(folder, fresh, results, samples_per_shard, bytes_per_shard)


def write_results(
    folder: Path,
    fresh: Report,
    results: Callable[[int], Iterator[Prepared]],
    samples_per_shard: int,
    bytes_per_shard: int | None = None,
) -> Report:
    """Write one folder of shards, or keep it where it is complete.

    `fresh` is the report of a new one, `results(start)` gives what becomes of each item from number `start` on.
    """
    from vlp.data.shards import INDEX, ShardWriter

    start, report, finished = read_progress(folder, fresh)
    if (folder / INDEX).exists():
        print(f"{folder} is complete, kept")
        return report
    writer, following = ShardWriter(folder, samples_per_shard, finished), start
    for following, (sample, bad) in enumerate(results(start), start + 1):
        report.bad += bad
        if sample is None:
            report.lost += 1
            continue
        key, members, captions = sample
        # Shards that are joined may both have a key.
        writer.add(f"{key[:40]}-{following - 1}" if key in writer.keys else key, members)
        report.pictures, report.captions = report.pictures + 1, report.captions + captions
        if bytes_per_shard and writer.tar is not None and writer.tar.offset >= bytes_per_shard:
            writer.flush()
        if not writer.rows:  # a shard has just been finished
            write_progress(folder, report, following, writer.shards)
    writer.flush()
    if writer.shards:
        # This stays: whoever finds the index later finds what it was made from and what was left out.
        write_progress(folder, report, following, writer.shards)
        writer.close()
    return report


def read_progress(folder: Path, fresh: Report) -> tuple[int, Report, list[dict[str, Any]]]:
    """Where an earlier conversion stopped: next item, report, finished shards. `fresh` is the report of a new one.

    Raises DataError when that conversion had other settings: its shards would be mixed with these.
    """
    from vlp.data.errors import DataError
    from vlp.data.shards import INDEX

    path = folder / PROGRESS
    if not path.is_file():
        if (folder / INDEX).exists():
            raise DataError(f"{folder} holds shards of another tool; remove it or choose another folder")
        return 0, fresh, []
    state = json.loads(path.read_text())
    report = Report(**state["report"]) if "report" in state else Report(fresh.split, {})
    changed = sorted(name for name, value in fresh.settings.items() if report.settings.get(name) != value)
    if changed:
        raise DataError(
            f"{folder} was begun with other {', '.join(changed)} (entries: what is read, --limit); "
            "remove it or choose another folder"
        )
    return state["next"], report, state["shards"]


def write_progress(folder: Path, report: Report, following: int, shards: list[dict[str, Any]]) -> None:
    """Remember how far the split is, for an interrupted conversion to go on and a complete one to be told."""
    write_json(folder / PROGRESS, {"next": following, "report": asdict(report), "shards": shards})


def summarise(reports: list[Report], path: Path, max_bad_share: float) -> int:
    """Print what was written and name all that was not; 1 when a split has nothing or too much was bad."""
    status = 0
    write_json(path, [asdict(r) | {"bad_share": r.bad_share} for r in reports])
    for report in reports:
        print(f"{report.split:8} {report.pictures:8} pictures {report.captions:8} captions {len(report.bad):6} bad")
        for line in report.bad:
            print(f"  {line}")
        if not report.pictures or report.bad_share > max_bad_share:
            share = f"{report.bad_share:.2%}, more than --max-bad-share {max_bad_share:.2%}"
            print(f"  too much of {report.split} is bad: {share}; see {path}")
            status = 1
    return status


# ---------------------------------------------------------------- one picture


def prepare(entry: Entry, *, read: Callable[[Entry], bytes], resize: int | None) -> Prepared:
    """One picture as members of a shard, and what is wrong with it."""
    from data_tools.pictures import encode, reason
    from vlp.data.images import decode

    try:
        data = read(entry)
        decode(data)
        kind, data = encode(data, resize)
    except (ValueError, OSError) as error:
        return None, [reason(error) if entry.filename in str(error) else f"{entry.filename}: {reason(error)}"]
    faults = [(number, caption_fault(text)) for number, text in entry.captions]
    bad = [f"{entry.filename}: caption {number} {fault}" for number, fault in faults if fault]
    captions = [{"id": number, "text": text.strip()} for number, text in entry.captions if not caption_fault(text)]
    if not captions:
        return None, [f"{entry.filename}: no caption with text" if not bad else f"{bad[0]}, and no other is left"]
    record = {"image_id": entry.number, "filename": entry.filename, "captions": captions}
    members = {kind: data, "json": json.dumps(record).encode()}
    return (f"{entry.number:09d}", members, len(captions)), bad


def caption_fault(text: Any) -> str:
    """What makes a text no caption; empty where nothing does."""
    if not isinstance(text, str) or not text.strip():
        return "has no text"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text)} characters, over {MAX_CHARACTERS}"
    try:
        text.encode()
    except UnicodeEncodeError:  # what was not UTF-8 in its file has come as lone surrogates
        return "is not UTF-8"
    return ""


def read_file(entry: Entry, *, folder: Path) -> bytes:
    """A picture's file. Raises ValueError naming it where it is missing, too large, or outside the folder."""
    path = find_file(entry, folder)
    if not path.is_file():
        raise ValueError(f"{path}: missing")
    if path.stat().st_size > MEMBER_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, above the limit of {MEMBER_BYTES}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    return data


def find_file(entry: Entry, folder: Path) -> Path:
    """The first place of an entry that is a file, else the first. Raises ValueError for one outside the folder."""
    root, paths = Path(os.path.abspath(folder)), []
    for place in entry.places:
        path = Path(os.path.normpath(root / str(place)))
        if not path.is_relative_to(root):
            raise ValueError(f"{place}: lies outside {folder}")
        paths.append(folder / path.relative_to(root))
    return next((path for path in paths if path.is_file()), paths[0])


def check_files(entries: list[Entry], folder: Path, count: int = 100) -> None:
    """Raise DataError when the first of the pictures are all missing: the folder is the wrong one."""
    from vlp.data.errors import DataError

    first, found = entries[:count], []
    for entry in first:
        try:
            found.append(find_file(entry, folder))
        except ValueError:  # named when its turn comes
            continue
    if not any(path.is_file() for path in found):
        example = found[0] if found else first[0].places[0] if first else "no picture asked for"
        raise DataError(f"none of the first {len(first)} pictures is in {folder} ({example}); give another folder")
