"""ALBEF's list-of-dicts JSON and a picture folder to indexed shards.

    vlp data albef coco.json vg.json images/ shards/coco-vg
    vlp data albef cc3m_train.json / shards/cc3m --strip /export/share/datasets/

Each JSON is [{"image": path, "caption": text or [texts], ...}, ...]; several are joined. Entries with the same path
are one picture with several captions, numbered in the order of the files. Paths are looked for below the folder; an
absolute path has to lie in it, so give `/` for it, or cut the front of the paths off with --strip. One folder of
shards, --split, is written. All that is true of `vlp data karpathy --help` (resuming, what is bad) holds here.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.conversion import add_writing_arguments, check_files, convert, read_file
from data_tools.paths import add_path_arguments, by_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data albef`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("json", type=Path, nargs="+", help="JSON files in ALBEF's layout")
    add_path_arguments(parser)
    add_writing_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Convert; 0 when all went well, 1 when too much was bad."""
    told = [(entry["image"], text) for path in args.json for entry in read_layout(path) for text in texts_of(entry)]
    entries = by_path(told, args.strip)
    check_files(entries[: args.limit], args.images)
    return convert({args.split: entries}, partial(read_file, folder=args.images), args)


def read_layout(path: Path) -> list[dict[str, Any]]:
    """The list of a file. Raises DataError naming file, key and remedy."""
    from vlp.data.errors import DataError

    if not path.is_file():
        raise DataError(f"{path} does not exist; give a JSON in ALBEF's layout")
    try:
        told = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error})") from error
    if not isinstance(told, list) or not told:
        raise DataError(
            f"{path} is no list of pictures, as ALBEF's layout is; a Karpathy one is for `vlp data karpathy`"
        )
    for i, entry in enumerate(told):
        fits = isinstance(entry, dict) and isinstance(entry.get("image"), str) and "caption" in entry
        if not fits:
            raise DataError(f"{path}: [{i}] needs a path as image and a caption, and is {str(entry)[:80]}")
    return told


def texts_of(entry: dict[str, Any]) -> list[Any]:
    """The captions of an entry; one that is empty or no text is named when its picture's turn comes."""
    caption = entry["caption"]
    return list(caption) or [""] if isinstance(caption, list) else [caption]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
