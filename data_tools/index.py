"""Index tars where they lie: shards of img2dataset, of any WebDataset writer, or of vlp without their index.

    vlp data img2dataset laion/            # 00000.tar ...: jpg, png or webp with txt or json
    vlp data index shards/coco/train       # an index that is there: are the shards what it says?
    vlp data index shards/coco/train --rebuild

No tar is changed. Beside each `NAME.tar` appears `NAME.index.npy` (where every member lies), `NAME.crc32.npy` (a CRC-32
of each) and, unless its json members already have vlp's captions, `NAME.records.tar` (their captions and numbers);
`index.json`, written last, has counts and checksums. The caption is the txt member, else "caption" of the json. Samples
without a picture or a caption, with keys that would lead out of a folder, and damaged places are left out of the index
and named in FOLDER/index.report.json; with --decode every picture is decoded too. Training, `vlp data check`, `pack`
and all others then read the folder as their own. `vlp data pack` writes it anew, where tars are to be of another size.
An interrupted command goes on where it stopped.
"""

import argparse
import hashlib
import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.parallel import resumed, write_json

JOURNAL, REPORT = "index.journal", "index.report.json"
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data index | img2dataset`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="folder of NAME.tar; the index is written into it")
    parser.add_argument("--rebuild", action="store_true", help="replace an index that is there")
    parser.add_argument("--decode", action="store_true", help="decode every picture, leave out those that cannot be")
    parser.add_argument("--limit", type=int, help="only the first N tars")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--max-bad-share", type=float, default=0.01, help="fail above this share (default 0.01)")


def main(args: argparse.Namespace) -> int:
    """Verify the index that is there, or build one; 1 where shards are not what it says or too much is bad."""
    from vlp.data.errors import DataError
    from vlp.data.shards import INDEX

    if (args.folder / INDEX).exists() and not args.rebuild:
        return verify(args.folder, args.workers)
    tars = sorted(path for path in args.folder.glob("*.tar") if not path.name.endswith(".records.tar"))[: args.limit]
    if not tars:
        raise DataError(f"{args.folder} has no *.tar; give the folder that holds the shards")
    return build(args, tars)


# ---------------------------------------------------------------- verify


def verify(folder: Path, workers: int) -> int:
    """Compare every shard with its checksum in the index."""
    from data_tools.damaged import DamagedShards
    from data_tools.parallel import in_order
    from vlp.data.shards import ShardFolder

    shards = ShardFolder(folder)
    files = [f for shard in shards.shards for f in (shard, shard.get("records")) if f]
    sums = in_order(partial(checksum, folder), [f["file"] for f in files], workers=workers, name="sha256", unit="tar")
    wrong = [f["file"] for f, found in zip(files, sums, strict=True) if found != f["sha256"]]
    tables = DamagedShards(folder)
    for number in range(len(shards.shards)):
        tables.table(number)
    for name in wrong:
        print(f"{folder / name}: its bytes are not those that were indexed; copy it again, or see `vlp data check`")
    if not wrong:
        print(
            f"{folder}: {len(shards.shards)} shards, {shards.num_samples} pictures, {shards.num_captions} captions, ok"
        )
    return 1 if wrong else 0


def checksum(folder: Path, name: str) -> str:
    """SHA-256 of a file."""
    with open(folder / name, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- build


def build(args: argparse.Namespace, tars: list[Path]) -> int:
    """Index every tar, then write the index and the report."""
    from vlp.data.errors import DataError
    from vlp.data.shards import INDEX, SUFFIXES, VERSION

    units = [(number, path.name) for number, path in enumerate(tars)]
    settings = {"tars": [[path.name, path.stat().st_size] for path in tars], "decode": args.decode}
    index_one = partial(_index_tar, folder=args.folder, decode=args.decode)
    options: dict[str, Any] = {"workers": args.workers, "name": "index", "unit": "tar"}
    told = list(resumed(index_one, units, journal=args.folder / JOURNAL, settings=settings, **options))
    shards = [entry["shard"] for entry in told if entry["shard"]["samples"]]
    report = {
        "folder": str(args.folder),
        "pictures": sum(s["samples"] for s in shards),
        "captions": sum(s["captions"] for s in shards),
        "left_out": sum(entry["left_out"] for entry in told),
        "causes": dict(sum((Counter(entry["causes"]) for entry in told), Counter())),
        "bad": [line for entry in told for line in entry["bad"]],
        "before": _counts_before(args.folder / INDEX),
    }
    write_json(args.folder / REPORT, report)
    if not shards:
        raise DataError(f"{args.folder}: no sample with a picture and a caption; see {args.folder / REPORT}")
    counts = {"samples": report["pictures"], "captions": report["captions"]}
    write_json(args.folder / INDEX, {"version": VERSION, "suffixes": SUFFIXES, **counts, "shards": shards})
    (args.folder / JOURNAL).unlink()
    return summarise(report, len(shards), args)


def _index_tar(unit: tuple[int, str], *, folder: Path, decode: bool) -> dict[str, Any]:
    from data_tools.foreign import index_tar

    return index_tar(unit[0], folder / unit[1], decode)


def _counts_before(path: Path) -> dict[str, int] | None:
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text())
        return {"samples": told["samples"], "captions": told["captions"]}
    except (ValueError, KeyError, TypeError):
        return None


def summarise(report: dict[str, Any], shards: int, args: argparse.Namespace) -> int:
    """Print counts and what was left out; 1 when that was too much."""
    share = report["left_out"] / max(report["left_out"] + report["pictures"], 1)
    print(
        f"{shards} shards, {report['pictures']} pictures, {report['captions']} captions, {report['left_out']} left out"
    )
    if report["before"]:
        print(f"the index before had {report['before']['samples']} pictures, {report['before']['captions']} captions")
    for cause, count in sorted(report["causes"].items()):
        print(f"  {count:8} {cause}")
    for line in report["bad"][:SHOWN]:
        print(f"  {line}")
    if len(report["bad"]) > SHOWN:
        print(f"  ... and {len(report['bad']) - SHOWN} more in {args.folder / REPORT}")
    if share > args.max_bad_share:
        print(f"  too much is bad: {share:.2%}, more than --max-bad-share {args.max_bad_share:.2%}")
    return 1 if share > args.max_bad_share else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
