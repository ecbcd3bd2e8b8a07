"""Pictures and captions of a set by the ids that files of others use: COCO's.

Caption ids are COCO's annotation ids, which the Karpathy JSON calls `sentid`. Picture ids are COCO's, which stand at
the end of a picture's file name; where the `image_id`s of the set fit, those are meant.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet

Numbers = dict[int, int]  # id -> number in the set


def number_at_end(name: str) -> int | None:
    """`COCO_val2014_000000391895.jpg` -> 391895, and none where a file name does not end in a number."""
    end = re.search(r"(\d+)\.\w+$", name)
    return None if end is None else int(end[1])


def caption_numbers(dataset: EvaluationSet) -> Numbers:
    """Every caption by its id."""
    return {caption: number for number, caption in enumerate(dataset.caption_ids)}


def picture_numbers(dataset: EvaluationSet, named: set[int]) -> Numbers:
    """Pictures by `image_id` where all of the `named` ones are such ids, else by the end of the file name."""
    own = {image: number for number, image in enumerate(dataset.image_ids)}
    if named <= own.keys():
        return own
    ends = map(number_at_end, dataset.filenames)
    return {end: number for number, end in enumerate(ends) if end is not None}


def check_known(path: Path, unknown: Sequence[str], dataset: EvaluationSet) -> None:
    """Raise DataError where a file names what the set does not have."""
    if unknown:
        raise DataError(
            f"{path} names {len(unknown)} ids that {dataset.folder} does not have ({', '.join(unknown[:3])}, ...); "
            "judgments of COCO's test split need that whole split, made from the Karpathy JSON, without a limit"
        )
