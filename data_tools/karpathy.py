"""Karpathy-layout JSON and a picture folder to indexed shards: COCO, Flickr30K, Flickr8k, any set with that layout.

    vlp data coco dataset_coco.json coco/ shards/coco
    vlp data flickr dataset_flickr30k.json flickr30k-images/ shards/flickr30k

The JSON holds images[].{filename, imgid, split, sentences[].{raw, sentid}}, for COCO also filepath. One folder of
shards is written for each split; `restval` joins `train`. Pictures keep their bytes unless --resize is given. A split
that is complete is kept, one that was interrupted goes on at its last whole shard. Every picture that is missing or
cannot be read and every caption without text is named on screen and in OUT/report.json.
"""

import argparse
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

DEFAULT_BAD_SHARE = 0.01


@dataclass
class Report:
    """What became of a split."""

    split: str
    pictures: int = 0
    captions: int = 0
    kept_from_before: bool = False
    bad: list[str] = field(default_factory=list)  # "file: cause"


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
    reports = [convert(split, splits[split][: args.limit], args) for split in wanted]
    write_json(args.out / "report.json", [asdict(r) for r in reports])
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
    for i, entry in enumerate(entries):
        missing = sorted({"filename", "split", "sentences"} - set(entry))
        if missing:
            raise DataError(f"{path}: images[{i}] has no {', '.join(missing)}")
        split = "train" if entry["split"] == "restval" else entry["split"]
        splits.setdefault(split, []).append(entry | {"imgid": entry.get("imgid", i)})
    if not splits:
        raise DataError(f"{path} names no pictures")
    return splits


def convert(split: str, entries: list[dict[str, Any]], args: argparse.Namespace) -> Report:
    """Write one split's shards, or keep them where they are complete."""
    from tqdm import tqdm

    from vlp.data.shards import INDEX, ShardFolder, ShardWriter

    folder = args.out / split
    settings = [str(args.json), args.limit, args.resize, args.samples_per_shard, len(entries)]
    if (folder / INDEX).exists():
        shards = ShardFolder(folder)
        return Report(split, shards.num_samples, shards.num_captions, kept_from_before=True)
    start, report, finished = read_progress(folder, split, settings)
    prepare_one = partial(prepare, images=args.images, resize=args.resize)
    writer = ShardWriter(folder, args.samples_per_shard, finished)
    with ProcessPoolExecutor(max(args.workers, 1)) as pool:
        prepared = map_in_order(pool, prepare_one, entries[start:])
        for i, (sample, bad) in enumerate(tqdm(prepared, desc=split, total=len(entries) - start, unit="img"), start):
            report.bad += bad
            if sample is not None:
                key, members, captions = sample
                writer.add(key, members)
                report.pictures, report.captions = report.pictures + 1, report.captions + captions
                if not writer.rows:  # a shard has just been finished
                    state = {"settings": settings, "next": i + 1, "shards": writer.shards, "report": asdict(report)}
                    write_json(folder / "progress.json", state)
    if report.pictures:
        writer.close()
        (folder / "progress.json").unlink(missing_ok=True)
    return report


def map_in_order(pool: ProcessPoolExecutor, function: Any, entries: list[dict[str, Any]]) -> Iterator[Any]:
    """`pool.map` that never holds more than a few hundred pictures in memory."""
    for begin in range(0, len(entries), 512):
        yield from pool.map(function, entries[begin : begin + 512], chunksize=32)


def read_progress(folder: Path, split: str, settings: list[Any]) -> tuple[int, Report, list[dict[str, Any]]]:
    """Where an interrupted conversion with the same settings stopped: next entry, report, finished shards."""
    path = folder / "progress.json"
    if path.is_file():
        state = json.loads(path.read_text())
        if state["settings"] == settings:
            return state["next"], Report(**state["report"]), state["shards"]
    return 0, Report(split), []


def prepare(
    entry: dict[str, Any], *, images: Path, resize: int | None
) -> tuple[tuple[str, dict[str, bytes], int] | None, list[str]]:
    """One picture as members of a shard, and what is wrong with it."""
    from vlp.data.images import decode

    path = images / entry.get("filepath", "") / entry["filename"]
    if not path.is_file():
        return None, [f"{path}: missing"]
    data = path.read_bytes()
    try:
        decode(data)
        kind, data = encode(data, resize)
    except (ValueError, OSError) as error:
        return None, [f"{path}: {error}"]
    sentences = entry["sentences"]
    numbered = [(s.get("sentid", f"{entry['imgid']}{i}"), s.get("raw", "")) for i, s in enumerate(sentences)]
    bad = [f"{path}: caption {number} has no text" for number, text in numbered if not text.strip()]
    captions = [{"id": int(number), "text": text.strip()} for number, text in numbered if text.strip()]
    if not captions:
        return None, [*bad, f"{path}: no caption"]
    record = {"image_id": int(entry["imgid"]), "filename": entry["filename"], "captions": captions}
    members = {kind: data, "json": json.dumps(record).encode()}
    return (f"{int(entry['imgid']):09d}", members, len(captions)), bad


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
    status = 0
    for report in reports:
        kept = " (complete before, kept)" if report.kept_from_before else ""
        print(
            f"{report.split:8} {report.pictures:8} pictures {report.captions:8} captions {len(report.bad):6} bad{kept}"
        )
        for line in report.bad:
            print(f"  {line}")
        total = report.pictures + len(report.bad)
        if not report.pictures or len(report.bad) > args.max_bad_share * total:
            print(f"  too much of {report.split} is bad ({len(report.bad)} of {total}); see {args.out / 'report.json'}")
            status = 1
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
