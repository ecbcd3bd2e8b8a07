"""Sources that name pictures by path: rows of (path, caption) to pictures with all their captions."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_tools.conversion import Entry

CAPTIONS = 1000  # ids of a picture's captions: its number times this, plus theirs


def add_path_arguments(parser: argparse.ArgumentParser) -> None:
    """Where pictures lie, and where shards go."""
    parser.add_argument("images", type=Path, help="folder below which the paths are looked for")
    parser.add_argument("out", type=Path, help="folder to write; gets one folder of shards a split")
    parser.add_argument("--split", default="train", help="name of the split (default: %(default)s)")
    parser.add_argument("--strip", default="", metavar="PREFIX", help="cut this off the front of every path")


def by_path(rows: Iterable[tuple[str, Any]], strip: str = "") -> list[Entry]:
    """One entry a path, with its captions in the order of the rows; numbered by first appearance."""
    found: dict[str, list[Any]] = {}
    for path, text in rows:
        found.setdefault(path.removeprefix(strip) if strip else path, []).append(text)
    return [
        Entry(number, (path,), path, tuple((CAPTIONS * number + i, text) for i, text in enumerate(texts)))
        for number, (path, texts) in enumerate(found.items())
    ]
