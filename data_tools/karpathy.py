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
import json
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.conversion import Entry, add_writing_arguments, check_files, convert, read_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data coco | flickr | karpathy`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("json", type=Path, help="the Karpathy-layout JSON")
    parser.add_argument("images", type=Path, help="folder of the pictures (COCO: the one that holds train2014/ ...)")
    parser.add_argument("out", type=Path, help="folder to write; gets one folder of shards a split")
    parser.add_argument("--splits", help="only these, comma-separated (default: all in the file)")
    add_writing_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Convert every split; 0 when all went well, 1 when too much was bad."""
    splits = {split: [entry_of(e) for e in entries] for split, entries in read_layout(args.json, args.images).items()}
    splits = chosen(splits, args.splits, args.json)
    check_files([entry for entries in splits.values() for entry in entries[: args.limit]], args.images)
    return convert(splits, partial(read_file, folder=args.images), args)


def chosen(splits: dict[str, list[Entry]], names: str | None, source: Path) -> dict[str, list[Entry]]:
    """The splits that --splits names, all by default. Raises DataError for one that is not there."""
    from vlp.data.errors import DataError

    wanted = names.split(",") if names else list(splits)
    unknown = sorted(set(wanted) - set(splits))
    if unknown:
        raise DataError(f"{source} has no split {', '.join(unknown)}; it has {', '.join(splits)}")
    return {split: splits[split] for split in wanted}


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


def entry_of(image: dict[str, Any]) -> Entry:
    """A picture of the JSON. COCO names a folder of its own (`filepath`), which some copies leave out."""
    number, name = image["imgid"], image["filename"]
    first = 1000 * number  # numbers for captions that have none
    captions = [(int(s.get("sentid", first + i)), s.get("raw") or "") for i, s in enumerate(image["sentences"])]
    folder = image.get("filepath")
    places = (f"{folder}/{name}", name) if folder else (name,)
    return Entry(number, places, name, tuple(captions))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
