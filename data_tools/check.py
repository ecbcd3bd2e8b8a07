"""Look at every member of every shard, name what is bad, and write the good samples to a new folder.

    vlp data check shards/coco/train
    vlp data check shards/laion --allow-duplicates --workers 32 --report laion.json
    vlp data check shards/laion --repair shards/laion-good

A shard is compared with its size and checksum in the index, and searched for members that the index does not know. Of
each sample the tar headers, the record, every caption, the picture (decoded whole) and its region features are looked
at; size limits are those of reading. Samples whose key or whose picture, byte by byte, came before are duplicates.
For pictures that only look alike see `vlp data overlap`. The table has one line a cause; the report
(FOLDER/check.json) names every bad sample by shard, row and key. Exit code 1 means that something was found. --repair
never changes FOLDER. An interrupted command goes on where it stopped.
"""

import argparse
import os
from collections import Counter
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
    told = look_at_all(source, args, journal)
    report = judge(source, told, args)
    write_json(path, report)
    journal.unlink()
    show(report, path)
    if args.repair:
        repair(source, report, args)
    return 1 if report["bad"] or report["shard_faults"] else 0


def look_at_all(source: Any, args: argparse.Namespace, journal: Path) -> list[dict[str, Any]]:
    """What was seen of each chunk of samples."""
    from data_tools.samples import look_at_chunk

    units = chunks(source, args.limit)
    settings = {"shards": source.shards, "limit": args.limit}
    options: dict[str, Any] = {"workers": args.workers, "name": "check", "size": lambda unit: unit[2] - unit[1]}
    look = partial(look_at_chunk, source)
    return list(resumed(look, units, journal=journal, settings=settings, **options))


def chunks(source: Any, limit: int | None = None, rows: int = ROWS) -> list[tuple[int, int, int]]:
    """(shard, first row, end) of pieces of work."""
    found, left = [], source.num_samples if limit is None else min(limit, source.num_samples)
    for number, shard in enumerate(source.shards):
        end = min(shard["samples"], left)
        found += [(number, begin, min(begin + rows, end)) for begin in range(0, end, rows)]
        left -= end
    return found


def judge(source: Any, told: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """The report: what was seen, and the duplicates among it."""
    units = chunks(source, args.limit)
    faults = [fault for entry in told for fault in entry["faults"]]
    known = {(fault["shard"], fault["row"]) for fault in faults}
    repeated = duplicates(source, units, told, known)
    bad = faults + ([] if args.allow_duplicates else repeated)
    looked = sum(end - begin for _, begin, end in units)
    return {
        "folder": str(args.folder),
        "samples": source.num_samples,
        "captions": source.num_captions,
        "looked_at": looked,
        "good": looked - len({(fault["shard"], fault["row"]) for fault in bad}),
        "bad": len({(fault["shard"], fault["row"]) for fault in bad}),
        "causes": dict(Counter(fault["cause"] for fault in faults + repeated)),
        "duplicates_allowed": args.allow_duplicates,
        "shard_faults": [fault for entry in told for fault in entry["shard_faults"]],
        "faults": sorted(faults + repeated, key=lambda fault: (fault["shard"], fault["row"])),
    }


def duplicates(
    source: Any, units: list[tuple[int, int, int]], told: list[dict[str, Any]], known: set[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Samples whose key, or else whose picture, came before in a sample that is good."""
    import numpy as np

    where = [(shard, row) for shard, begin, end in units for row in range(begin, end)]
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for cause, name in zip(DUPLICATES, ("keys", "pictures"), strict=True):
        hashes = np.array([int(h, 16) for entry in told for h in entry[name]], dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        first = order[0] if len(order) else 0
        for here in order[1:].tolist():
            same = hashes[here] == hashes[first] and hashes[here]  # 0: there was none
            if not same or where[first] in known or where[first] in found:
                first = here
                continue
            if where[here] not in known and where[here] not in found:
                found[where[here]] = {
                    **place_of(source, *where[here]),
                    "cause": cause,
                    "detail": f"first in {source.name(*where[first])}",
                }
    return list(found.values())


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
    bad = {(fault["shard"], fault["row"]) for fault in report["faults"] if fault["cause"] not in skipped}
    numbers = [n for n in range(report["looked_at"]) if source.locate(n) not in bad]
    packing = Packing(samples_per_shard=max(shard["samples"] for shard in source.shards))
    made = pack(source, numbers, args.repair, packing, args.workers)
    print(f"{args.repair}: {made.pictures} pictures, {made.captions} captions, {report['bad']} samples left out")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
