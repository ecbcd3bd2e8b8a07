"""Look at every member of every shard, name what is bad, and write the good samples to a new folder.

    vlp data check shards/coco/train
    vlp data check shards/laion --allow-duplicates --workers 32 --report laion.json
    vlp data check shards/laion --repair shards/laion-good

A shard is compared with its size and checksum in the index, and searched for members that the index does not know. Of
each sample the tar headers, the record, every caption, the picture (decoded whole) and its region features are looked
at; size limits are those of reading. What looks well is compared with the CRC-32 that the index keeps of every member,
where it has them. Samples whose key or whose picture, byte by byte, came before are duplicates. For pictures that only
look alike see `vlp data overlap`. The table has one line a cause; the report (FOLDER/check.json) names every bad sample
by shard, row and key. Exit code 1 means that something was found. --repair never changes FOLDER. An interrupted command
goes on where it stopped.
"""

import argparse
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.parallel import resumed, write_json

ROWS = 200  # samples that a process looks at in one go
REPORT = "check.json"
DUPLICATES = ("duplicate key", "duplicate picture")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data check`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="folder of indexed shards")
    parser.add_argument("--report", type=Path, help=f"JSON to write (default: FOLDER/{REPORT})")
    parser.add_argument("--repair", type=Path, metavar="OUT", help="write the good samples to a new folder of shards")
    parser.add_argument("--allow-duplicates", action="store_true", help="duplicates are counted, but are not bad")
    parser.add_argument("--limit", type=int, help="only the first N samples")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")


def main(args: argparse.Namespace) -> int:
    """Look, report, repair; 1 where something is bad."""
    from data_tools.damaged import DamagedShards

    source = DamagedShards(args.folder)
    path = args.report or args.folder / REPORT
    journal = path.with_name(f"{path.name}.journal")
    report = judge(source, look_at_all(source, args, journal), args)
    write_json(path, report)
    journal.unlink()
    show(report, path)
    if args.repair:
        repair(source, report, args)
    return 1 if report["bad"] or report["shard_faults"] else 0


def look_at_all(source: Any, args: argparse.Namespace, journal: Path) -> Iterator[dict[str, Any]]:
    """What was seen of each chunk of samples, in order."""
    from data_tools.samples import look_at_chunk

    settings = {"shards": source.shards, "limit": args.limit}
    options: dict[str, Any] = {"workers": args.workers, "name": "check", "size": lambda unit: unit[2] - unit[1]}
    units = chunks(source, args.limit)
    return resumed(partial(look_at_chunk, source), units, journal=journal, settings=settings, **options)


def chunks(source: Any, limit: int | None = None, rows: int = ROWS) -> list[tuple[int, int, int]]:
    """(shard, first row, end) of pieces of work."""
    found, left = [], source.num_samples if limit is None else min(limit, source.num_samples)
    for number, shard in enumerate(source.shards):
        end = min(shard["samples"], left)
        found += [(number, begin, min(begin + rows, end)) for begin in range(0, end, rows)]
        left -= end
    return found


def judge(source: Any, told: Iterable[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """The report: what was seen, and the duplicates among it."""
    faults: list[dict[str, Any]] = []
    shard_faults: list[dict[str, Any]] = []
    hashes = {name: array("Q") for name in ("keys", "pictures")}  # 16 bytes a sample
    for entry in told:
        faults += entry["faults"]
        shard_faults += entry["shard_faults"]
        for name, kept in hashes.items():
            kept.extend(int(text, 16) for text in entry[name])
    repeated = duplicates(source, hashes, {number_of(source, fault) for fault in faults})
    bad = {number_of(source, fault) for fault in faults + ([] if args.allow_duplicates else repeated)}
    looked = len(hashes["keys"])
    return {
        "folder": str(args.folder),
        "samples": source.num_samples,
        "captions": source.num_captions,
        "looked_at": looked,
        "good": looked - len(bad),
        "bad": len(bad),
        "causes": dict(Counter(fault["cause"] for fault in faults + repeated)),
        "duplicates_allowed": args.allow_duplicates,
        "shard_faults": shard_faults,
        "faults": sorted(faults + repeated, key=lambda fault: (fault["shard"], fault["row"])),
    }


def duplicates(source: Any, hashes: dict[str, Any], bad: set[int]) -> list[dict[str, Any]]:
    """Samples whose key, or else whose picture, came before in a sample that is good. A hash of 0 is none."""
    import numpy as np

    found: dict[int, dict[str, Any]] = {}
    for cause, name in zip(DUPLICATES, ("keys", "pictures"), strict=True):
        values = np.frombuffer(hashes[name], dtype=np.uint64)
        order = np.argsort(values, kind="stable")
        again = np.flatnonzero((values[order[1:]] == values[order[:-1]]) & (values[order[1:]] != 0)) + 1
        first = -1  # the first good sample of those that are alike
        for place in again.tolist():
            here, before = int(order[place]), int(order[place - 1])
            if first < 0 or values[first] != values[here]:
                first = before
            if first in bad or first in found:
                first = here
            elif here not in bad and here not in found:
                detail = f"first in {source.name(*source.locate(first))}"
                found[here] = place_of(source, *source.locate(here)) | {"cause": cause, "detail": detail}
    return list(found.values())


def number_of(source: Any, fault: dict[str, Any]) -> int:
    """The number of a sample in its set."""
    return int(source.first_sample[fault["shard"]]) + int(fault["row"])


def place_of(source: Any, shard: int, row: int) -> dict[str, Any]:
    """How a report names a sample."""
    return {"shard": shard, "file": source.shards[shard]["file"], "row": row, "key": source.key(shard, row)}


def show(report: dict[str, Any], path: Path) -> None:
    """The table of a report."""
    from rich.console import Console
    from rich.table import Table

    for fault in report["shard_faults"]:
        print(f"{fault['file']}: {fault['cause']} ({fault['detail']})")
    table = Table("cause", "samples", "share", "first")
    first: dict[str, str] = {}
    for fault in report["faults"]:
        first.setdefault(fault["cause"], f"{fault['file']}: {fault['key'] or fault['row']}: {fault['detail']}")
    for cause, count in sorted(report["causes"].items(), key=lambda entry: -entry[1]):
        allowed = " (allowed)" if cause in DUPLICATES and report["duplicates_allowed"] else ""
        table.add_row(cause + allowed, str(count), f"{count / report['looked_at']:.2%}", first[cause])
    if report["causes"]:
        Console(width=None if os.isatty(1) else 160).print(table)
    print(f"{report['good']} of {report['looked_at']} samples are good, {report['bad']} bad; all named in {path}")


def repair(source: Any, report: dict[str, Any], args: argparse.Namespace) -> None:
    """Write the good samples to a new folder."""
    from data_tools.pack import Packing, pack

    skipped = DUPLICATES if report["duplicates_allowed"] else ()
    bad = {number_of(source, fault) for fault in report["faults"] if fault["cause"] not in skipped}
    numbers = [number for number in range(report["looked_at"]) if number not in bad]
    packing = Packing(samples_per_shard=max(shard["samples"] for shard in source.shards))
    made = pack(source, numbers, args.repair, packing, args.workers)
    print(f"{args.repair}: {made.pictures} pictures, {made.captions} captions, {report['bad']} samples left out")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
