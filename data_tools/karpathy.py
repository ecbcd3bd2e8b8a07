"""Karpathy-layout JSON and a picture folder to indexed shards: COCO, Flickr30K, Flickr8k, any set with that layout.

    vlp data coco dataset_coco.json coco/ shards/coco
    vlp data flickr dataset_flickr30k.json flickr30k-images/ shards/flickr30k

The JSON holds images[].{filename, imgid, split, sentences[].{raw, sentid}}, for COCO also filepath. One folder of
shards is written for each split; `restval` joins `train`. Pictures keep their bytes unless --resize is given. A split
that is complete is kept, one that was interrupted goes on at its last whole shard; either only with the settings that
it was begun with. Every picture that is missing or cannot be read and every caption without text is named on screen
and in OUT/report.json.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

DEFAULT_BAD_SHARE = 0.01
PROGRESS = "progress.json"


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data coco | flickr | karpathy`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("json", type=Path, help="the Karpathy-layout JSON")
    parser.add_argument("images", type=Path, help="folder of the pictures (COCO: the one that holds train2014/ ...)")
    parser.add_argument("out", type=Path, help="folder to write; gets one folder of shards a split")
    parser.add_argument("--splits", help="only these, comma-separated (default: all in the file)")
    parser.add_argument("--limit", type=int, help="only the first N pictures of each split")
    parser.add_argument("--resize", type=int, help="shrink pictures to this shorter side, as JPEG of quality 95")
    parser.add_argument("--samples-per-shard", type=int, default=1000, help="pictures a shard (default 1000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument(
        "--max-bad-share", type=float, default=DEFAULT_BAD_SHARE, help="fail above this share (default 0.01)"
    )


def main(args: argparse.Namespace) -> int:
    """Convert every split; 0 when all went well, 1 when too much was bad."""
    from vlp.data.errors import DataError

    splits = read_layout(args.json, args.images)
    wanted = args.splits.split(",") if args.splits else list(splits)
    unknown = sorted(set(wanted) - set(splits))
    if unknown:
        raise DataError(f"{args.json} has no split {', '.join(unknown)}; it has {', '.join(splits)}")
    check_pictures([entry for split in wanted for entry in splits[split][: args.limit]], args.images)
    reports = [convert(split, splits[split][: args.limit], args) for split in wanted]
    return summarise(reports, args)


def read_layout(path: Path, images: Path) -> dict[str, list[dict[str, Any]]]:
    """Entries of the JSON by split, `restval` joined to `train`. Raises DataError naming file, key and remedy."""
    from vlp.data.errors import DataError

    if not path.is_file():
        raise DataError(f"{path} does not exist; give the Karpathy-layout JSON of the set")
    if not images.is_dir():
        raise DataError(f"{images} is no folder; give the folder that holds the set's pictures")
    try:
        entries = json.loads(path.read_text())["images"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not in the Karpathy layout ({type(error).__name__}: {error})") from error
    splits: dict[str, list[dict[str, Any]]] = {}
    numbers: dict[int, int] = {}
    for i, entry in enumerate(entries):
        missing = sorted({"filename", "split", "sentences"} - set(entry))
        if missing:
            raise DataError(f"{path}: images[{i}] has no {', '.join(missing)}")
        number = entry.get("imgid", i)
        if not isinstance(number, int) or numbers.setdefault(number, i) != i:
            raise DataError(f"{path}: images[{i}].imgid is {number!r}; each picture needs a whole number of its own")
        split = "train" if entry["split"] == "restval" else entry["split"]
        splits.setdefault(split, []).append(entry | {"imgid": number})
    if not splits:
        raise DataError(f"{path} names no pictures")
    return splits


def check_pictures(entries: list[dict[str, Any]], images: Path, count: int = 100) -> None:
    """Raise DataError when the first of the pictures are all missing: the folder is the wrong one."""
    from vlp.data.errors import DataError

    first = entries[:count]
    if not any(place(entry, images).is_file() for entry in first):
        example = place(first[0], images) if first else "no picture asked for"
        raise DataError(f"none of the first {len(first)} pictures is in {images} ({example}); give another folder")


def convert(split: str, entries: list[dict[str, Any]], args: argparse.Namespace) -> Report:
    """Write one split's shards, or keep them where they are complete."""
    from vlp.data.shards import INDEX, ShardWriter

    folder = args.out / split
    start, report, finished = read_progress(folder, Report(split, settings_of(entries, args)))
    if (folder / INDEX).exists():
        print(f"{folder} is complete, kept")
        return report
    writer = ShardWriter(folder, args.samples_per_shard, finished)
    prepare_one = partial(prepare, images=args.images, resize=args.resize)
    for i, (sample, bad) in enumerate(in_order(prepare_one, entries[start:], args.workers, split), start):
        report.bad += bad
        if sample is None:
            report.lost += 1
            continue
        key, members, captions = sample
        writer.add(key, members)
        report.pictures, report.captions = report.pictures + 1, report.captions + captions
        if not writer.rows:  # a shard has just been finished
            write_progress(folder, report, i + 1, writer.shards)
    writer.flush()
    if writer.shards:
        # This stays: whoever finds the index later finds what it was made from and what was left out.
        write_progress(folder, report, len(entries), writer.shards)
        writer.close()
    return report


def settings_of(entries: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """What decides the bytes of a split: its entries (so also --limit) and the way that they are written."""
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    return {"entries": digest, "resize": args.resize, "samples_per_shard": args.samples_per_shard}


def in_order(function: Any, entries: list[dict[str, Any]], workers: int, name: str) -> Iterator[Any]:
    """`function` of every entry, by several processes, with a progress bar; few pictures are held at a time."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(desc=name, total=len(entries), unit="img"))
        mapped: Any = map
        if workers > 1:
            context = multiprocessing.get_context("forkserver")
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=context))
            mapped = partial(pool.map, chunksize=32)
        for begin in range(0, len(entries), 512):
            for result in mapped(function, entries[begin : begin + 512]):
                yield result
                bar.update()


def read_progress(folder: Path, fresh: Report) -> tuple[int, Report, list[dict[str, Any]]]:
    """Where an earlier conversion stopped: next entry, report, finished shards. `fresh` is the report of a new one.

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
    report = Report(**state["report"])
    changed = sorted(name for name, value in fresh.settings.items() if report.settings.get(name) != value)
    if changed:
        raise DataError(
            f"{folder} was begun with other {', '.join(changed)} (entries: the JSON's content, --limit); "
            "remove it or choose another folder"
        )
    return state["next"], report, state["shards"]


def write_progress(folder: Path, report: Report, following: int, shards: list[dict[str, Any]]) -> None:
    """Remember how far the split is, for an interrupted conversion to go on and a complete one to be told."""
    write_json(folder / PROGRESS, {"next": following, "report": asdict(report), "shards": shards})


def place(entry: dict[str, Any], images: Path) -> Path:
    """Where a picture lies: COCO names a folder of its own (`filepath`), which some copies leave out."""
    nested = images / entry.get("filepath", "") / entry["filename"]
    flat = images / entry["filename"]
    return flat if flat.is_file() and not nested.is_file() else nested


def prepare(
    entry: dict[str, Any], *, images: Path, resize: int | None
) -> tuple[tuple[str, dict[str, bytes], int] | None, list[str]]:
    """One picture as members of a shard, and what is wrong with it."""
    from vlp.data.images import decode

    path = place(entry, images)
    if not path.is_file():
        return None, [f"{path}: missing"]
    data = path.read_bytes()
    try:
        decode(data)
        kind, data = encode(data, resize)
    except (ValueError, OSError) as error:
        return None, [f"{path}: {error}"]
    first = 1000 * entry["imgid"]  # numbers for captions that have none
    numbered = [(s.get("sentid", first + i), s.get("raw") or "") for i, s in enumerate(entry["sentences"])]
    bad = [f"{path}: caption {number} has no text" for number, text in numbered if not text.strip()]
    captions = [{"id": int(number), "text": text.strip()} for number, text in numbered if text.strip()]
    if not captions:
        return None, [f"{path}: no caption with text"]
    record = {"image_id": entry["imgid"], "filename": entry["filename"], "captions": captions}
    members = {kind: data, "json": json.dumps(record).encode()}
    return (f"{entry['imgid']:09d}", members, len(captions)), bad


def encode(data: bytes, resize: int | None) -> tuple[str, bytes]:
    """Kind and bytes to store: as they are, or shrunk. Kinds other than JPEG, PNG and WebP become JPEG."""
    from PIL import Image, ImageOps

    picture = Image.open(io.BytesIO(data))
    kind = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}.get(picture.format or "")
    if kind and (resize is None or min(picture.size) <= resize):
        return kind, data
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    if resize is not None and min(picture.size) > resize:
        share = resize / min(picture.size)
        size = (round(picture.width * share), round(picture.height * share))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95)
    return "jpg", out.getvalue()


def write_json(path: Path, record: Any) -> None:
    """Write beside, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(part, path)


def summarise(reports: list[Report], args: argparse.Namespace) -> int:
    """Print what was written and name all that was not; 1 when a split has nothing or too much was bad."""
    path, status = args.out / "report.json", 0
    write_json(path, [asdict(r) | {"bad_share": r.bad_share} for r in reports])
    for report in reports:
        print(f"{report.split:8} {report.pictures:8} pictures {report.captions:8} captions {len(report.bad):6} bad")
        for line in report.bad:
            print(f"  {line}")
        if not report.pictures or report.bad_share > args.max_bad_share:
            share = f"{report.bad_share:.2%}, more than --max-bad-share {args.max_bad_share:.2%}"
            print(f"  too much of {report.split} is bad: {share}; see {path}")
            status = 1
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
