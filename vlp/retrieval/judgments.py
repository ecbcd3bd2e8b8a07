"""Positives beyond a picture's own captions, as others have judged them: ECCV Caption and CxC in its published layout.

A set of judgments is two JSON files in a folder, `NAME_image_to_caption.json` and `NAME_caption_to_image.json`, each an
object of query ids to lists of the ids that fit (github.com/naver-ai/eccv-caption, `eccv_caption/data`, holds `eccv`,
`cxc` and `original`). `published_ids.py` says what the ids mean.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.retrieval.precision import many_positive_metrics
from vlp.retrieval.published_ids import Numbers, caption_numbers, check_known, picture_numbers
from vlp.retrieval.ranking import Ranking
from vlp.retrieval.ranks import SIDES, Metrics

FILES = ("image_to_caption", "caption_to_image")
Lists = dict[int, list[int]]


@dataclass
class Judgments:
    """The items that fit each judged query, as numbers of an evaluation set."""

    name: str
    captions_of: Lists  # by picture
    pictures_of: Lists  # by caption

    def metrics(self, ranking: Ranking) -> Metrics:
        """`many_positive_metrics` of the judged pictures and of the judged captions, over the whole gallery."""
        images, texts = torch.tensor(list(self.captions_of)), torch.tensor(list(self.pictures_of))
        count, texts_count = ranking.scores.shape
        forward = many_positive_metrics(ranking.image_keys(images), _marked(self.captions_of, texts_count))
        backward = many_positive_metrics(ranking.text_keys(texts), _marked(self.pictures_of, count))
        return dict(zip(SIDES, (forward, backward), strict=True))


def read_judgments(folder: Path, dataset: EvaluationSet) -> list[Judgments]:
    """Every set of judgments in a folder. Raises DataError naming the file and what is wrong with it."""
    names = sorted(path.name.removesuffix(f"_{FILES[0]}.json") for path in folder.glob(f"*_{FILES[0]}.json"))
    return [_read(folder, name, dataset) for name in names]


def _read(folder: Path, name: str, dataset: EvaluationSet) -> Judgments:
    first, second = (folder / f"{name}_{file}.json" for file in FILES)
    captions_of, pictures_of = _lists(first), _lists(second)
    texts = caption_numbers(dataset)
    images = picture_numbers(dataset, {*captions_of, *(picture for row in pictures_of.values() for picture in row)})
    return Judgments(
        name,
        _numbered(captions_of, images, texts, first, "picture", "caption", dataset),
        _numbered(pictures_of, texts, images, second, "caption", "picture", dataset),
    )


def _lists(path: Path) -> Lists:
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; judgments are two files, NAME_{FILES[0]}.json and NAME_{FILES[1]}.json"
        )
    try:
        found = {int(query): [int(item) for item in items] for query, items in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no object of ids to lists of ids ({type(error).__name__}: {error})") from error
    empty = [query for query, items in found.items() if not items]
    if empty or not found:
        raise DataError(f"{path}: {f'query {empty[0]} has' if empty else 'there are'} no positives")
    return found


def _numbered(
    lists: Lists, queries: Numbers, items: Numbers, path: Path, query: str, item: str, dataset: EvaluationSet
) -> Lists:
    unknown = [f"{query} {q}" for q in lists if q not in queries]
    check_known(path, unknown + [f"{item} {i}" for row in lists.values() for i in row if i not in items], dataset)
    return {queries[q]: [items[i] for i in row] for q, row in lists.items()}


def _marked(lists: Lists, count: int) -> Tensor:
    """(Q, count) bool."""
    marked = torch.zeros(len(lists), count, dtype=torch.bool)
    for row, numbers in zip(marked, lists.values(), strict=True):
        row[numbers] = True
    return marked
