"""Plausible-match R-precision (PMRP, PCME, Chun 2021, section 4.2): positives by labels of classes in place of people.

A caption plausibly matches a picture where the classes of the caption's picture differ from the picture's in at most
0, 1 or 2; R-precision is averaged over the three. As in PCME's `evaluate_pmrp_coco.py`, pictures without any label are
left out, with their captions, as queries and from the gallery. Of such matches people confirm 65 / 57 % (ECCV Caption,
Chun 2022), so it is reported last.

Labels come from one file in the layout of COCO's instances: `images` with `id`, `annotations` with `image_id` and
`category_id`, `categories` with `id`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.retrieval.positives import ROWS
from vlp.retrieval.precision import r_precisions
from vlp.retrieval.published_ids import number_at_end
from vlp.retrieval.ranking import Ranking
from vlp.retrieval.ranks import SIDES, Metrics

DISTANCES = (0, 1, 2)
LAYOUT = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id",)}


@dataclass
class Labels:
    """The classes of pictures that have any."""

    images: Tensor  # (L,) their numbers in the set
    classes: Tensor  # (L, K) bool

    def distances(self) -> Tensor:
        """(L, L) int16: in how many classes two pictures differ."""
        named = self.classes.float()
        count = named.sum(1)
        return (count[:, None] + count - 2 * named @ named.T).round().short()

    def metrics(self, ranking: Ranking, text_image: Tensor) -> Metrics:
        """R-precision at each distance and `PMRP`, their mean, in per cent, exact under ties."""
        place = torch.full((len(ranking.scores),), -1)
        place[self.images] = torch.arange(len(self.images))
        texts = (place[text_image] >= 0).nonzero()[:, 0]
        owners, apart = place[text_image[texts]], self.distances()
        forward = (
            r_precisions(ranking.image_keys(self.images[some])[:, texts], _marks(apart[some][:, owners]))
            for some in torch.arange(len(self.images)).split(ROWS)
        )
        backward = (
            r_precisions(ranking.text_keys(texts[some])[:, self.images], _marks(apart[owners[some]]))
            for some in torch.arange(len(texts)).split(ROWS)
        )
        return dict(zip(SIDES, (_means(forward), _means(backward)), strict=True))


def _marks(apart: Tensor) -> list[Tensor]:
    return [apart <= distance for distance in DISTANCES]


def _means(blocks: Iterable[Tensor]) -> dict[str, float]:
    found = 100 * torch.cat(list(blocks), 1).mean(1)
    out = {f"R-precision at {distance}": float(value) for distance, value in zip(DISTANCES, found, strict=True)}
    return out | {"PMRP": float(found.mean())}


def read_labels(path: Path, dataset: EvaluationSet) -> Labels:
    """The labels of a set's pictures. Raises DataError naming the file, the key and what is wrong with it."""
    lists = _lists(path)
    known, categories = {int(row["id"]) for row in lists["images"]}, [row["id"] for row in lists["categories"]]
    columns = {category: number for number, category in enumerate(sorted(set(categories)))}
    numbers = {image: number for number, image in enumerate(_image_ids(path, known, dataset))}
    classes = torch.zeros(dataset.num_images, len(columns), dtype=torch.bool)
    for row in lists["annotations"]:
        if row["category_id"] not in columns:
            raise DataError(
                f"{path}: an annotation is of category_id {row['category_id']}, which categories do not have"
            )
        if row["image_id"] in numbers:
            classes[numbers[row["image_id"]], columns[row["category_id"]]] = True
    images = classes.any(1).nonzero()[:, 0]
    if not len(images):
        raise DataError(f"{path} labels none of the pictures of {dataset.folder}")
    return Labels(images, classes[images])


def _lists(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); give COCO's instances_SPLIT.json") from error
    for name, keys in LAYOUT.items():
        rows = found.get(name) if isinstance(found, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{path} has no list {name!r}; give COCO's instances_SPLIT.json, or a file of its layout")
        for number, row in enumerate(rows):
            for key in keys:
                if not isinstance(row, dict) or type(row.get(key)) is not int:
                    raise DataError(f"{path}: {name}[{number}] has no whole number {key!r}")
    return dict(found)


def _image_ids(path: Path, known: set[int], dataset: EvaluationSet) -> list[int]:
    """The file's id of every picture: its `image_id` where the file knows all of those, else the end of its name."""
    if known.issuperset(dataset.image_ids):
        return dataset.image_ids
    ends = [number_at_end(name) for name in dataset.filenames]
    unknown = [name for name, end in zip(dataset.filenames, ends, strict=True) if end not in known]
    if unknown:
        raise DataError(
            f"{path} does not list {len(unknown)} of the {dataset.num_images} pictures of {dataset.folder} "
            f"({', '.join(unknown[:3])}, ...); give the file of the split that they come from"
        )
    return [end for end in ends if end is not None]
