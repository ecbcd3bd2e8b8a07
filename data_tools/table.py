"""A CSV, TSV or parquet file of path and caption, and a picture folder, to indexed shards.

    vlp data table captions.csv images/ shards/mine --path-column filepath --caption-column title
    vlp data table pairs.parquet images/ shards/mine --split-column split
    vlp data table pairs.tsv images/ shards/mine --no-header --path-column 0 --caption-column 1

Rows with the same path are one picture with several captions. CSV and TSV are UTF-8; a caption that is not is named,
a row with too few columns stops the command. Parquet is read by pyarrow (`pip install 'vlp[parquet]'`), which
unpickles nothing; a caption column may hold lists of texts. With --split-column every value is a split of its own.
All that is true of `vlp data karpathy --help` (resuming, what is bad) holds here.
"""

import argparse
import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.conversion import Entry, add_writing_arguments, check_files, convert, read_file
from data_tools.paths import add_path_arguments, by_path

DELIMITERS = {".csv": ",", ".tsv": "\t"}
LONGEST_FIELD = 1 << 20  # characters of a field of a CSV
Row = tuple[str, str, Any]  # split, path, caption


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp data table`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("table", type=Path, help="file.csv, file.tsv or file.parquet")
    add_path_arguments(parser)
    parser.add_argument("--path-column", default="image", help="column of the paths (default: %(default)s)")
    parser.add_argument("--caption-column", default="caption", help="column of the captions (default: %(default)s)")
    parser.add_argument("--split-column", help="column of the split's name (default: all are --split)")
    parser.add_argument("--no-header", action="store_true", help="the first line is a row; columns are 0, 1, ...")
    add_writing_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Convert every split; 0 when all went well, 1 when too much was bad."""
    splits: dict[str, list[tuple[str, Any]]] = {}
    for split, path, text in read_rows(args):
        splits.setdefault(safe_name(split, args.table), []).append((path, text))
    entries = {split: by_path(rows, args.strip) for split, rows in splits.items()}
    check_files([entry for taken in entries.values() for entry in taken[: args.limit]], args.images)
    return convert(distinct(entries), partial(read_file, folder=args.images), args)


def safe_name(split: str, source: Path) -> str:
    """A split's name as the name of a folder. Raises DataError for one that leads elsewhere."""
    from vlp.data.errors import DataError
    from vlp.data.shards import KEY

    if not KEY.fullmatch(split):
        raise DataError(f"{source}: split {split!r} cannot be a folder's name; use letters, digits, '_' and '-'")
    return split


def distinct(splits: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """Entries numbered on through the splits, so that no two pictures of the file share a number."""
    first, numbered = 0, {}
    for split, entries in splits.items():
        numbered[split] = [
            Entry(e.number + first, e.places, e.filename, tuple((1000 * first + i, text) for i, text in e.captions))
            for e in entries
        ]
        first += len(entries)
    return numbered


def read_rows(args: argparse.Namespace) -> Iterator[Row]:
    """The rows of the file. Raises DataError naming file, line or column, and remedy."""
    from vlp.data.errors import DataError

    if not args.table.is_file():
        raise DataError(f"{args.table} does not exist; give a .csv, .tsv or .parquet")
    if args.table.suffix == ".parquet":
        return read_parquet(args)
    if args.table.suffix not in DELIMITERS:
        raise DataError(f"{args.table}: unknown kind {args.table.suffix!r}; give a .csv, .tsv or .parquet")
    return read_text(args)


def read_text(args: argparse.Namespace) -> Iterator[Row]:
    """Rows of a CSV or TSV."""
    from vlp.data.errors import DataError

    csv.field_size_limit(LONGEST_FIELD)
    names = [args.path_column, args.caption_column, *([args.split_column] if args.split_column else [])]
    quoting = csv.QUOTE_MINIMAL if args.table.suffix == ".csv" else csv.QUOTE_NONE
    with open(args.table, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=DELIMITERS[args.table.suffix], quoting=quoting)
        try:
            header = None if args.no_header else next(reader, [])
            columns = [column_number(name, header, args.table) for name in names]
            for row in reader:
                if not row:
                    continue
                if len(row) <= max(columns):
                    raise DataError(f"{args.table}: line {reader.line_num} has {len(row)} columns; mend or drop it")
                path, text, *split = (row[column] for column in columns)
                yield (split[0] if split else args.split), path, text
        except csv.Error as error:
            raise DataError(f"{args.table}: line {reader.line_num}: {error}; mend or drop it") from error


def column_number(name: str, header: list[str] | None, table: Path) -> int:
    """Where a column stands. Raises DataError naming the columns that there are."""
    from vlp.data.errors import DataError

    if header is None:
        if not name.isdigit():
            raise DataError(f"{table} is read without a header, so {name!r} must be the number of a column")
        return int(name)
    if name not in header:
        raise DataError(
            f"{table} has no column {name!r}; it has {', '.join(header)}. Say --path-column, --caption-column"
        )
    return header.index(name)


def read_parquet(args: argparse.Namespace) -> Iterator[Row]:
    """Rows of a parquet file, read piece by piece."""
    import pyarrow
    from pyarrow import parquet

    from vlp.data.errors import DataError

    names = [args.path_column, args.caption_column, *([args.split_column] if args.split_column else [])]
    try:
        file = parquet.ParquetFile(args.table)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{args.table} is no parquet file ({error})") from error
    for name in names:
        column_number(name, file.schema_arrow.names, args.table)
    for piece in file.iter_batches(columns=names):
        columns = [piece.column(name).to_pylist() for name in names]
        for path, caption, *split in zip(*columns, strict=True):
            texts = (caption or [""]) if isinstance(caption, list) else [caption]
            for text in texts:
                yield (str(split[0]) if split else args.split), str(path), text


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
