"""Graded relevance by people: Crisscrossed Captions (CxC, Parekh 2021, arXiv 2004.15020) from its published CSV files.

A split is up to three files, `sits_SPLIT.csv` (caption, image), `sts_SPLIT.csv` (caption1, caption2) and
`sis_SPLIT.csv` (image1, image2), each with a mean rating `agg_score` from 0 to 5 and how the pair was sampled
(github.com/google-research-datasets/Crisscrossed-Captions, `data/` and README.md; `*_raw.csv`, the single ratings, are
not read). Captions are written `COCO_val2014:sentid:648388`, pictures by their file names.

A pair is a positive from a rating of 3, two pictures from 2.5 (section 3, as github.com/naver-ai/eccv-caption quotes it
in `data_tools/merge.py`), beside the original ones: a picture's own captions, and captions of one picture.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.retrieval.published_ids import Numbers, caption_numbers, check_known, number_at_end, picture_numbers

COLUMNS = {"sits": ("caption", "image"), "sts": ("caption1", "caption2"), "sis": ("image1", "image2")}
LEAST = {"sits": 3.0, "sts": 3.0, "sis": 2.5}  # rating of a positive
RATING, HIGHEST = "agg_score", 5.0
Rows = list[tuple[int, int, float]]  # two ids of COCO's and a rating


@dataclass
class Ratings:
    """Rated pairs as numbers of an evaluation set, in the file's order."""

    one: Tensor  # (P,) of the first column
    two: Tensor  # (P,) of the second
    rating: Tensor  # (P,) float64, 0 to 5


@dataclass
class Crisscrossed:
    """The tasks of a split that are given, by the beginnings of their files' names."""

    name: str
    tasks: dict[str, Ratings]


def read_crisscrossed(folder: Path, dataset: EvaluationSet) -> list[Crisscrossed]:
    """The splits in a folder whose pictures and captions are the set's; one that shares none with it is passed over.

    Raises DataError, naming file and line, for a file that cannot be read, for a split of which the set has a part, and
    where no split is left.
    """
    files = {task: sorted(folder.glob(f"{task}_*.csv")) for task in COLUMNS}
    splits: dict[str, dict[str, Path]] = {}
    for task, paths in files.items():
        for path in paths:
            if not path.stem.endswith("_raw"):
                splits.setdefault(path.stem.removeprefix(f"{task}_"), {})[task] = path
    found = [_read(split, splits[split], dataset) for split in sorted(splits)]
    fitting = [split for split in found if split is not None]
    if splits and not fitting:
        raise DataError(
            f"{folder}: {dataset.folder} has none of the pictures and captions rated in the splits "
            f"{', '.join(splits)}; ratings of COCO's validation or test split need that split of the Karpathy JSON"
        )
    return fitting


def _read(split: str, paths: dict[str, Path], dataset: EvaluationSet) -> Crisscrossed | None:
    """The split as numbers of the set; None where the set has nothing of it."""
    rows = {task: read_rows(path, COLUMNS[task]) for task, path in paths.items()}
    kinds = {task: [_kind(name) for name in COLUMNS[task]] for task in rows}
    named = {row[:2][c] for task, some in rows.items() for c in (0, 1) if kinds[task][c] == "image" for row in some}
    numbers = {"caption": caption_numbers(dataset), "image": picture_numbers(dataset, named)}
    unknown = {
        task: [f"{kind} {row[c]}" for row in some for c, kind in enumerate(kinds[task]) if row[c] not in numbers[kind]]
        for task, some in rows.items()
    }
    if all(len(unknown[task]) == 2 * len(some) for task, some in rows.items()):
        return None
    for task, path in paths.items():
        check_known(path, unknown[task], dataset)
    tasks = {task: _ratings(some, *(numbers[kind] for kind in kinds[task])) for task, some in rows.items()}
    return Crisscrossed(f"CxC {split}", tasks)


def _kind(column: str) -> str:
    return column.rstrip("12")


def _ratings(rows: Rows, one: Numbers, two: Numbers) -> Ratings:
    pairs = torch.tensor([(one[a], two[b]) for a, b, _ in rows])
    return Ratings(pairs[:, 0], pairs[:, 1], torch.tensor([rating for _, _, rating in rows], dtype=torch.float64))


def read_rows(path: Path, columns: Sequence[str]) -> Rows:
    """Both ids and the rating of every line. Raises DataError naming the line, the column and what is wrong with it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, strict=True)
            absent = [name for name in (*columns, RATING) if name not in (table.fieldnames or [])]
            if absent:
                there = ", ".join(table.fieldnames or ["none"])
                raise DataError(
                    f"{path} has no column {absent[0]!r} (it has {there}); give CxC's file of mean ratings as published"
                )
            rows = [_row(row, columns, f"{path}, line {table.line_num}") for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({error})") from error
    if not rows:
        raise DataError(f"{path} rates no pair")
    return rows


def _row(row: dict[str, str | None], columns: Sequence[str], place: str) -> tuple[int, int, float]:
    one, two = (_id(row[name] or "", name, place) for name in columns)
    if one == two and _kind(columns[0]) == _kind(columns[1]):
        raise DataError(f"{place}: {row[columns[0]]!r} is rated against itself")
    try:
        rating = float(row[RATING] or "")
    except ValueError:
        rating = -1.0
    if not 0 <= rating <= HIGHEST:
        raise DataError(f"{place}, {RATING}: {row[RATING]!r} is no rating from 0 to 5")
    return one, two, rating


def _id(name: str, column: str, place: str) -> int:
    if _kind(column) == "image":
        found = number_at_end(name)
    else:
        end = re.search(r"(?:^|:)(\d+)$", name)
        found = None if end is None else int(end[1])
    if found is None:
        raise DataError(f"{place}, {column}: {name!r} does not end in an id of COCO's")
    return found
