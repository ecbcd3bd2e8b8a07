"""Everything beyond a set's own pairs that an evaluation is held against, read before it and reported after it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.crisscrossed import Crisscrossed, read_crisscrossed
from vlp.retrieval.embed import Vectors
from vlp.retrieval.graded import across, correlations, within
from vlp.retrieval.judgments import FILES, Judgments, read_judgments
from vlp.retrieval.plausible import Labels, read_labels
from vlp.retrieval.ranking import Ranking
from vlp.retrieval.report import Report


@dataclass
class Judged:
    """Lists of positives, ratings, and labels of classes."""

    lists: list[Judgments] = field(default_factory=list)
    ratings: list[Crisscrossed] = field(default_factory=list)
    labels: Labels | None = None


def read_judged(config: EvaluationConfig, dataset: EvaluationSet) -> Judged:
    """What the config names. Raises DataError where a file does not fit the set, and for a folder without any."""
    labels = read_labels(Path(config.labels), dataset) if config.labels else None
    if not config.judgments:
        return Judged(labels=labels)
    folder = Path(config.judgments)
    found = Judged(read_judgments(folder, dataset), read_crisscrossed(folder, dataset), labels)
    if not found.lists and not found.ratings:
        raise DataError(
            f"{folder} holds no NAME_{FILES[0]}.json and no sits_SPLIT.csv, sts_SPLIT.csv or sis_SPLIT.csv; "
            "give the folder of ECCV Caption's data, or that of CxC's"
        )
    return found


def report_judged(
    report: Report,
    rankings: Mapping[str, Ranking],
    text_image: Tensor,
    judged: Judged,
    sides: Vectors | None,
    samples: int,
) -> None:
    """Fill in the judged figures of each stage; `sides` compare items of one side, where the first stage has them."""
    for some in judged.lists:
        report.judged[some.name] = {stage: some.metrics(ranking) for stage, ranking in rankings.items()}
    for split in judged.ratings:
        if "sits" in split.tasks:
            report.judged[split.name] = {stage: across(split, r, text_image) for stage, r in rankings.items()}
        if sides is not None:
            report.within[split.name] = within(split, sides, text_image)
        report.correlations[split.name] = correlations(split, rankings, sides, samples)
    if judged.labels is not None:
        report.labelled = len(judged.labels.images)
        report.plausible = {stage: judged.labels.metrics(ranking, text_image) for stage, ranking in rankings.items()}
