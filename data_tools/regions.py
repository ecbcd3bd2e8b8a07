"""Region features into shards: from a torchvision detector, from a timm network's grid, or from files of others.

    vlp data regions shards/coco/train out --detector fasterrcnn_resnet50_fpn_v2 --weights detector.safetensors --tags
    vlp data regions shards/flickr8k/train out --grid tf_efficientnet_lite0 --weights lite0.safetensors
    vlp data regions shards/coco/train out --features trainval_resnet101_faster_rcnn_genome_36.tsv

New shards are written with every member of the old ones and `{key}.regions.safetensors`: features (R, D) and
class_probs (R, C) in fp16, boxes (R, 4) as shares x1 y1 x2 y2 of the picture. Train on them with
`data.use_regions=true`. --tags adds the names of the likeliest classes to the record, for Oscar
(`data.use_tags=true`).

Weights are a local safetensors file: a .pth could run code; `python -c "import sys, torch, safetensors.torch as s;
s.save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" IN.pth OUT.safetensors` makes one of it.
--features is a bottom-up-attention TSV (also LXMERT's), a folder of .npz (one a picture), or a folder with UNITER's
data.mdb (`pip install 'vlp[lmdb]'`); a picture finds its features by file name, or by the number that ends it.
Nothing in them is unpickled. A picture without regions is left out and named. A complete folder is kept, an
interrupted one goes on at its last whole shard.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.conversion import Prepared, Report, digest, summarise, write_results, write_split
from data_tools.pack import copy_tokenizer, members_of

REGIONS = "regions.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data regions`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="folder of indexed shards to read")
    parser.add_argument("out", type=Path, help="folder of indexed shards to write")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--detector", metavar="NAME", help="a Faster R-CNN of torchvision")
    source.add_argument("--grid", metavar="NAME", help="a convolutional network of timm")
    source.add_argument("--features", type=Path, metavar="PATH", help="a .tsv, a folder of .npz, a folder of data.mdb")
    parser.add_argument("--weights", type=Path, help="safetensors file of the detector or the network")
    parser.add_argument("--image-size", type=int, default=224, help="side of the picture for a grid (default 224)")
    parser.add_argument("--top", type=int, default=36, help="most regions of a picture from a detector (default 36)")
    parser.add_argument("--threshold", type=float, default=0.2, help="least score of a detection (default 0.2)")
    parser.add_argument("--tags", action="store_true", help="add the names of classes to the record")
    parser.add_argument(
        "--classes", type=Path, help="names of the classes, one a line (default: COCO's for 90 of them)"
    )
    parser.add_argument("--tag-threshold", type=float, default=0.3, help="least probability of a tag (default 0.3)")
    parser.add_argument("--drop-pictures", action="store_true", help="leave the pictures out of the new shards")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures at once (default 16)")
    parser.add_argument("--limit", type=int, help="only the first N samples")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--max-bad-share", type=float, default=0.01, help="fail above this share (default 0.01)")


def main(args: argparse.Namespace) -> int:
    """Write the new shards; 1 where too much is bad."""
    from vlp.data.errors import DataError
    from vlp.data.shards import ShardFolder

    if args.out.resolve() == args.folder.resolve():
        raise DataError(f"{args.out} is the folder that is read; choose another")
    source = ShardFolder(args.folder)
    numbers = range(source.num_samples)[: args.limit]
    fresh = Report(args.out.name, settings_of(source, numbers, args))
    most = max(shard["samples"] for shard in source.shards)
    names = class_names(args.classes) if args.tags and args.classes else None
    if args.features:
        from data_tools.bottom_up import Features

        attach_one = partial(attach_features, source=source, features=Features(args.features), args=args, names=names)
        report = write_split(args.out, fresh, numbers, attach_one, args.workers, most)
    else:
        extract, names = extractor(args, names)
        results = partial(extracted, source=source, numbers=numbers, extract=extract, args=args, names=names)
        report = write_results(args.out, fresh, results, most)
    copy_tokenizer(source.folder, args.out)
    return summarise([report], args.out / "report.json", args.max_bad_share)


def settings_of(source: Any, numbers: range, args: argparse.Namespace) -> dict[str, Any]:
    """What decides the bytes that are written."""
    kept = "detector grid features weights image_size top threshold tags classes tag_threshold drop_pictures"
    told = {name: getattr(args, name) for name in kept.split()}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in told.items()}
    return settings | {"entries": digest(numbers), "shards": [shard["sha256"] for shard in source.shards]}


def class_names(path: Path) -> list[str]:
    """The lines of a file. Raises DataError where there are none."""
    from vlp.data.errors import DataError

    try:
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); give a text file with the name of a class on each line"
        ) from error
    if not names:
        raise DataError(f"{path} is empty; give a text file with the name of a class on each line")
    return names


def extractor(args: argparse.Namespace, names: list[str] | None) -> tuple[Callable[[list[Any]], list[Any]], Any]:
    """What makes regions of pictures, and the names of its classes. Raises DataError."""
    from data_tools import detectors
    from vlp.data.errors import DataError

    if args.weights is None:
        raise DataError("--weights is missing: give the safetensors file of the detector or the network")
    if args.grid:
        found = detectors.grid(args.grid, args.weights, args.image_size)
    else:
        found = detectors.detector(args.detector, args.weights, args.top, args.threshold)
        names = names or (detectors.coco_names(args.weights) if args.tags else None)
    if args.tags and not names:
        raise DataError("--tags needs --classes: a text file with the name of a class on each line")
    return found, names


# ---------------------------------------------------------------- one sample, or a batch of them


def attach_features(
    number: int, *, source: Any, features: Any, args: argparse.Namespace, names: list[str] | None
) -> Prepared:
    """A sample with the features that a file has of its picture."""
    from vlp.data.errors import BadSampleError

    place = source.locate(number)
    try:
        members = members_of(source, place)
        record = json.loads(members["json"])
        regions = features.read(record["filename"], members)
        return attached(source.key(*place), members, regions, args, names), []
    except BadSampleError as error:
        return None, [str(error)]
    except (ValueError, KeyError) as error:
        return None, [f"{source.name(*place)}: {error}"]


def extracted(
    start: int, *, source: Any, numbers: range, extract: Any, args: argparse.Namespace, names: list[str] | None
) -> Iterator[Prepared]:
    """Samples with the regions that a network finds; pictures are decoded by other processes."""
    from data_tools.parallel import in_order

    look = partial(decoded, source=source)
    waiting: list[tuple[int, Any]] = []
    found = in_order(look, numbers, workers=args.workers, name=args.out.name, done=start, chunk=4)
    for number, picture in zip(numbers[start:], found, strict=True):
        waiting.append((number, picture))
        if len(waiting) == args.batch_size or number == numbers[-1]:
            yield from _batch(waiting, source, extract, args, names)
            waiting = []


def decoded(number: int, *, source: Any) -> Any:
    """A sample's picture as an array, or what is wrong with it as a text."""
    from vlp.data.images import decode
    from vlp.data.shards import PICTURES

    place = source.locate(number)
    try:
        data = next(data for kind in PICTURES if (data := source.read(*place, kind)) is not None)
        return decode(data).numpy()
    except StopIteration:
        return "no picture"
    except ValueError as error:
        return str(error)


def _batch(
    waiting: list[tuple[int, Any]], source: Any, extract: Any, args: argparse.Namespace, names: list[str] | None
) -> Iterator[Prepared]:
    pictures = [picture for _, picture in waiting if not isinstance(picture, str)]
    found = iter(extract(pictures) if pictures else [])
    for number, picture in waiting:
        place = source.locate(number)
        if isinstance(picture, str):
            yield None, [f"{source.name(*place)}: {picture}"]
            continue
        try:
            yield attached(source.key(*place), members_of(source, place), next(found), args, names), []
        except ValueError as error:
            yield None, [f"{source.name(*place)}: {error}"]


def attached(
    key: str, members: dict[str, bytes], regions: Any, args: argparse.Namespace, names: list[str] | None
) -> tuple[str, dict[str, bytes], int]:
    """The sample with its regions, and with tags where there are names. Raises ValueError for regions that are not."""
    from data_tools.samples import look_at_tensors
    from vlp.data.shards import PICTURES

    record = json.loads(members["json"])
    members[REGIONS] = regions.to_bytes()
    look_at_tensors(members[REGIONS], REGIONS, ("features", "boxes", "class_probs"), key)
    if args.tags and names:
        record["tags"] = regions.tags(names, args.tag_threshold)
        members["json"] = json.dumps(record).encode()
    if args.drop_pictures:
        members = {suffix: data for suffix, data in members.items() if suffix not in PICTURES}
    return key, members, len(record["captions"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
