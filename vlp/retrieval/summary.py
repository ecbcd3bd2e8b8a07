"""From the rankings of an evaluation's stages to the figures of its report."""

from collections.abc import Mapping

from torch import Tensor

from vlp.retrieval.bootstrap import differences, intervals
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.folds import fold_metrics
from vlp.retrieval.ranking import Ranking
from vlp.retrieval.report import Report


def summarise(report: Report, rankings: Mapping[str, Ranking], text_image: Tensor, config: EvaluationConfig) -> None:
    """Fill in metrics, intervals and folds of each stage; the keys of `rankings` are the report's."""
    outcomes = {stage: ranking.outcome(text_image) for stage, ranking in rankings.items()}
    for stage, outcome in outcomes.items():
        setattr(report, stage, outcome.metrics())
    if config.resamples:
        report.intervals = {s: intervals(o, text_image, config.resamples) for s, o in outcomes.items()}
        pairs = zip(outcomes, list(outcomes)[1:], strict=False)
        report.gains = {
            f"{b} over {a}": differences(outcomes[a], outcomes[b], text_image, config.resamples) for a, b in pairs
        }
    if config.fold is not None:
        report.fold = config.fold
        report.folds = {stage: fold_metrics(ranking, text_image, config.fold) for stage, ranking in rankings.items()}
