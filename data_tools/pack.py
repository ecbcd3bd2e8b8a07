"""Write a folder of shards anew: other sizes of shards, smaller pictures, another format, another order, some left out.

    vlp data pack shards/laion shards/laion-256 --resize 256 --bytes-per-shard 500MB
    vlp data pack shards/cc3m shards/cc3m-mixed --shuffle 0
    vlp data pack shards/cc3m shards/cc3m-clean --drop overlap.json

Every member of a sample goes along (records, regions, cached features) and so does the tokenizer; pictures that need no
change keep their bytes. --drop leaves out the samples that a report of `vlp data check` or `vlp data overlap` names.
Pictures that are smaller than --resize are not enlarged. A complete folder is kept, an interrupted one goes on at its
last whole shard, either only with the settings that it was begun with. OUT/report.json has the counts.
"""

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.conversion import Prepared, Report, caption_fault, digest, write_split

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "": 1}
TOKENIZER = ("tokenizer.json", "vocab.txt")


@dataclass(frozen=True)
class Packing:
    """How samples are written."""

    samples_per_shard: int = 1000
    bytes_per_shard: int | None = None
    resize: int | None = None
    kind: str | None = None  # of the pictures: jpg, webp, None = as they are
    quality: int = 95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data pack`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="folder of indexed shards to read")
    parser.add_argument("out", type=Path, help="folder of indexed shards to write")
    parser.add_argument("--samples-per-shard", type=int, default=10_000, help="at most so many (default 10000)")
    parser.add_argument("--bytes-per-shard", type=size, help="about so many at most: 500MB, 1GB")
    parser.add_argument("--resize", type=int, help="shrink pictures to this shorter side")
    parser.add_argument("--format", choices=("jpg", "webp"), help="encode all pictures so (default: as they are)")
    parser.add_argument("--quality", type=int, default=95, help="of what is encoded anew (default 95)")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="another order, a function of the seed")
    parser.add_argument("--drop", type=Path, metavar="REPORT", help="leave out what this JSON report names")
    parser.add_argument("--limit", type=int, help="only the first N samples (of the new order)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--max-bad-share", type=float, default=0.001, help="fail above this share (default 0.001)")


def size(text: str) -> int:
    """`500MB` -> 500,000,000."""
    number = text.rstrip("BbKkMmGg")
    unit = text[len(number) :].upper()
    if unit not in UNITS or not number.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 500MB or 1GB")
    return int(float(number) * UNITS[unit])


def main(args: argparse.Namespace) -> int:
    """Pack, report; 1 where too much is bad."""
    from data_tools.conversion import summarise
    from vlp.data.errors import DataError
    from vlp.data.shards import ShardFolder

    if args.out.resolve() == args.folder.resolve():
        raise DataError(f"{args.out} is the folder that is read; choose another")
    source = ShardFolder(args.folder)
    numbers = chosen(source, args)
    packing = Packing(args.samples_per_shard, args.bytes_per_shard, args.resize, args.format, args.quality)
    report = pack(source, numbers, args.out, packing, args.workers)
    return summarise([report], args.out / "report.json", args.max_bad_share)


def chosen(source: Any, args: argparse.Namespace) -> list[int]:
    """Sample numbers in the order of writing."""
    numbers = list(range(source.num_samples))
    if args.drop:
        bad = dropped(source, args.drop)
        numbers = [number for number in numbers if number not in bad]
    if args.shuffle is not None:
        import numpy as np

        numbers = np.random.default_rng(args.shuffle).permutation(numbers).tolist()
    return numbers[: args.limit]


def dropped(source: Any, path: Path) -> set[int]:
    """Numbers of the samples that a report names. Raises DataError where it is not one of this folder."""
    from vlp.data.errors import DataError

    try:
        report = json.loads(path.read_text())
        faults = [(fault["shard"], fault["row"], fault["key"]) for fault in report["faults"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no report of `vlp data check` or `overlap` ({error})") from error
    for shard, row, key in faults:
        fits = shard < len(source.shards) and row < source.shards[shard]["samples"]
        if not fits or source.key(shard, row) != key:
            raise DataError(
                f"{path} names {key!r} as row {row} of shard {shard}, {source.folder} does not; run it again"
            )
    return {int(source.first_sample[shard]) + row for shard, row, _ in faults}


def pack(source: Any, numbers: Sequence[int], out: Path, packing: Packing, workers: int) -> Report:
    """Write these samples of a folder, in this order."""
    settings = {"shards": [s["sha256"] for s in source.shards], "entries": digest(numbers), **asdict(packing)}
    repack_one = partial(repack, source=source, packing=packing)
    fresh = Report(out.name, settings)
    report = write_split(out, fresh, numbers, repack_one, workers, packing.samples_per_shard, packing.bytes_per_shard)
    copy_tokenizer(source.folder, out)
    return report


def copy_tokenizer(folder: Path, out: Path) -> None:
    """The vocabulary goes along with the shards."""
    for name in TOKENIZER:
        if (folder / name).is_file() and not (out / name).exists():
            shutil.copy2(folder / name, out / name)


def members_of(source: Any, place: tuple[int, int]) -> dict[str, bytes]:
    """Every member of a sample. Raises BadSampleError."""
    return {suffix: data for suffix in source.suffixes if (data := source.read(*place, suffix)) is not None}


def repack(number: int, *, source: Any, packing: Packing) -> Prepared:
    """A sample as it is written anew, and what is wrong with it."""
    from data_tools.pictures import encode, reason
    from vlp.data.errors import BadSampleError
    from vlp.data.images import decode
    from vlp.data.shards import PICTURES

    place = source.locate(number)
    try:
        members = members_of(source, place)
        for kind in PICTURES:
            if kind in members and (packing.resize or packing.kind):
                data = members.pop(kind)
                decode(data)  # the limits of reading, before Pillow's
                new, data = encode(data, packing.resize, packing.kind, packing.quality)
                members[new] = data
        texts = [caption["text"] for caption in json.loads(members["json"])["captions"]]
        if not texts or any(map(caption_fault, texts)):
            raise ValueError(f"a caption {next(filter(None, map(caption_fault, texts)), 'is missing')}")
    except BadSampleError as error:
        return None, [str(error)]
    except (ValueError, KeyError, TypeError, OSError) as error:
        return None, [f"{source.name(*place)}: {reason(error)}"]
    return (source.key(*place), members, len(texts)), []


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
