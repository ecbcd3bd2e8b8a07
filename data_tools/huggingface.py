"""A Hugging Face `datasets` folder on disk (`save_to_disk`, or a snapshot of parquet files) to indexed shards.

    vlp data huggingface flickr30k/ shards/flickr30k --caption-column caption
    vlp data huggingface snapshot/ shards/mine --image-column picture --split-column split

Arrow and parquet files are read by pyarrow (`pip install 'vlp[parquet]'`), without the `datasets` library: no script
of the folder runs and nothing is unpickled. The image column holds {bytes, path} as `datasets.Image` stores it, or
plain bytes; the caption column a text or a list of texts. A folder of `save_to_disk` has a folder a split; of parquet
files the split is the name up to the first `-`. One row is one picture. All that is true of `vlp data karpathy
--help` (resuming, what is bad) holds here.
"""

import argparse
import json
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache, partial, wraps
from itertools import accumulate
from pathlib import Path
from typing import Any

from data_tools.conversion import Entry, add_writing_arguments, convert
from data_tools.karpathy import chosen
from data_tools.paths import CAPTIONS
from data_tools.table import column_number, distinct, safe_name
from vlp.data.record import MEMBER_BYTES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data huggingface`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="folder of save_to_disk, or of parquet files")
    parser.add_argument("out", type=Path, help="folder to write; gets one folder of shards a split")
    parser.add_argument("--image-column", default="image", help="column of the pictures (default: %(default)s)")
    parser.add_argument("--caption-column", default="caption", help="column of the captions (default: %(default)s)")
    parser.add_argument("--split-column", help="column of the split's name (default: by file)")
    parser.add_argument("--splits", help="only these, comma-separated (default: all)")
    add_writing_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Convert every split; 0 when all went well, 1 when too much was bad."""
    splits: dict[str, list[Entry]] = {}
    for split, files in split_files(args.folder).items():
        for file in files:
            for name, entry in read_entries(split, file, args):
                splits.setdefault(safe_name(name, args.folder), []).append(entry)
    numbered = {split: [renumbered(e, i) for i, e in enumerate(entries)] for split, entries in splits.items()}
    return convert(
        chosen(distinct(numbered), args.splits, args.folder), partial(read_row, column=args.image_column), args
    )


def renumbered(entry: Entry, number: int) -> Entry:
    """The entry as number so and so of its split."""
    captions = tuple((CAPTIONS * number + i, text) for i, (_, text) in enumerate(entry.captions))
    return Entry(number, entry.places, entry.filename, captions)


def split_files(folder: Path) -> dict[str, list[Path]]:
    """Data files by split. Raises DataError where the folder has none."""
    from vlp.data.errors import DataError

    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        return {name: arrow_files(folder / safe_name(name, folder)) for name in names}
    if (folder / "state.json").is_file():
        return {"train": arrow_files(folder)}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        found.setdefault(path.stem.split("-")[0], []).append(path)
    if not found:
        raise DataError(f"{folder} has no dataset_dict.json, state.json or *.parquet; give a `datasets` folder on disk")
    return found


def arrow_files(folder: Path) -> list[Path]:
    """The files of one split of `save_to_disk`, in order."""
    from vlp.data.errors import DataError

    try:
        state = json.loads((folder / "state.json").read_text())
        names = [file["filename"] for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'state.json'} cannot be read ({error}); save the set again") from error
    strange = [name for name in names if Path(name).name != name]
    if strange or state.get("_indices_data_files"):
        raise DataError(f"{folder}: {strange[:1] or 'a view of other rows'} is not read; save_to_disk the set again")
    return [folder / name for name in names]


def read_entries(split: str, file: Path, args: argparse.Namespace) -> Iterator[tuple[str, Entry]]:
    """(split, entry) of the rows of a file, their pictures left where they are."""
    names = [args.caption_column, *([args.split_column] if args.split_column else [])]
    for name in (args.image_column, *names):
        column_number(name, column_names(str(file)), file)
    table = columns_of(str(file), names)
    captions = table.column(args.caption_column)
    splits = table.column(args.split_column) if args.split_column else None
    for row in range(table.num_rows):
        caption = captions[row].as_py()
        texts = (caption or [""]) if isinstance(caption, list) else [caption]
        name = str(splits[row].as_py()) if splits is not None else split
        told = tuple(enumerate(texts))
        yield name, Entry(0, (str(file), row), f"{file.name}:{row}", told)


def guarded(function: Any) -> Any:
    """The function, with Arrow's errors as DataError."""

    @wraps(function)
    def guard(file: str, *others: Any) -> Any:
        import pyarrow

        from vlp.data.errors import DataError

        try:
            return function(file, *others)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{file} cannot be read ({error}); copy it again") from error

    return guard


@lru_cache(maxsize=8)
@guarded
def mapped(file: str) -> Any:
    """The table of an Arrow file: mapped, not read."""
    import pyarrow

    with pyarrow.memory_map(file) as source:
        return pyarrow.ipc.open_stream(source).read_all()


@lru_cache(maxsize=8)
@guarded
def parquet_file(file: str) -> tuple[Any, list[int]]:
    """A parquet file, and the first row of each of its groups."""
    from pyarrow import parquet

    opened = parquet.ParquetFile(file, memory_map=True)
    sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
    return opened, list(accumulate(sizes, initial=0))


@lru_cache(maxsize=2)
@guarded
def row_group(file: str, group: int, column: str) -> Any:
    """One column of a group of rows: so much is held at a time."""
    return parquet_file(file)[0].read_row_group(group, columns=[column]).column(column)


def column_names(file: str) -> list[str]:
    """The columns that a file has."""
    names = parquet_file(file)[0].schema_arrow.names if file.endswith(".parquet") else mapped(file).column_names
    return list(names)


@guarded
def columns_of(file: str, names: list[str]) -> Any:
    """Some columns of a file, whole."""
    return parquet_file(file)[0].read(columns=names) if file.endswith(".parquet") else mapped(file).select(names)


def cell(file: str, row: int, column: str) -> Any:
    """The value at a place."""
    if not file.endswith(".parquet"):
        return mapped(file).column(column)[row].as_py()
    group = bisect_right(parquet_file(file)[1], row) - 1
    return row_group(file, group, column)[row - parquet_file(file)[1][group]].as_py()


def read_row(entry: Entry, *, column: str) -> bytes:
    """The bytes of a row's picture. Raises ValueError naming the row."""
    value = cell(str(entry.places[0]), int(entry.places[1]), column)
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise ValueError(
            f"{entry.filename}: no bytes of a picture in {column}; save the set with its pictures embedded"
        )
    if len(data) > MEMBER_BYTES:
        raise ValueError(f"{entry.filename}: {len(data)} bytes, above the limit of {MEMBER_BYTES}")
    return data


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
