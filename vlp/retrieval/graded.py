"""What a model finds of CxC's positives, across and within the sides, and how its scores go with people's ratings.

Scores of two items of one side are cosines of the first stage's vectors. Correlations are Spearman's of scores with
ratings over all rated pairs, and their mean and standard deviation over samples of half of the queries with one rated
item of each (Parekh 2021; it does not say which side asks: here the first column of the file, for SITS the captions).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vlp.retrieval.correlation import sampled_spearman, spearman
from vlp.retrieval.crisscrossed import LEAST, Crisscrossed, Ratings
from vlp.retrieval.embed import Vectors
from vlp.retrieval.positives import Positives, captions_of_one_picture, captions_of_pictures
from vlp.retrieval.ranking import Ranking
from vlp.retrieval.ranks import SIDES, Metrics, check_finite


def across(split: Crisscrossed, ranking: Ranking, text_image: Tensor) -> Metrics:
    """`many_positive_metrics` of every picture and every caption, over the whole gallery."""
    captions = Positives.joined(captions_of_pictures(text_image), _rated(split, "sits").turned())
    count, texts_count = ranking.scores.shape
    forward = captions.metrics(ranking.image_keys, texts_count)
    return dict(zip(SIDES, (forward, captions.turned().metrics(ranking.text_keys, count)), strict=True))


def within(split: Crisscrossed, sides: Vectors, text_image: Tensor) -> Metrics:
    """The same of captions among captions, for all that have a positive, and of pictures among pictures; a query is no
    answer to itself. `sides` holds rows of length 1. A direction without its file, or without a positive, is absent."""
    out: Metrics = {}
    texts = Positives.joined(captions_of_one_picture(text_image), _rated(split, "sts").both_ways())
    for name, task, positives, rows in (
        ("text to text", "sts", texts, sides.text),
        ("image to image", "sis", _rated(split, "sis").both_ways(), sides.image),
    ):
        check_finite(rows, name)
        if task in split.tasks and len(positives.query):
            out[name] = positives.metrics(_among(rows), len(rows))
    return out


def correlations(
    split: Crisscrossed, rankings: Mapping[str, Ranking], sides: Vectors | None, samples: int
) -> dict[str, dict[str, float]]:
    """Times 100, by task: STS and SIS where there are `sides`, SITS of each stage that scores every pair."""
    out = {}
    for task, rows in (("sts", sides.text), ("sis", sides.image)) if sides is not None else ():
        if task in split.tasks:
            rated = split.tasks[task]
            out[task.upper()] = _correlation(rated, (rows[rated.one] * rows[rated.two]).sum(1), samples)
    for stage, ranking in rankings.items():
        if "sits" in split.tasks and ranking.stage is None:
            rated = split.tasks["sits"]
            out[f"SITS, {stage}"] = _correlation(rated, ranking.scores[rated.two, rated.one], samples)
    return out


def _correlation(rated: Ratings, scores: Tensor, samples: int) -> dict[str, float]:
    out = {"all pairs": 100 * spearman(scores, rated.rating)}
    if samples:
        mean, spread = sampled_spearman(rated.one, scores, rated.rating, samples)
        out |= {"samples": 100 * mean, "spread": 100 * spread}
    return out


def _rated(split: Crisscrossed, task: str) -> Positives:
    """The pairs of a task that its rating makes positives: the first column asks."""
    if task not in split.tasks:
        none = torch.empty(0, dtype=torch.long)
        return Positives(none, none)
    rated = split.tasks[task]
    good = rated.rating >= LEAST[task]
    return Positives(rated.one[good], rated.two[good])


def _among(rows: Tensor) -> Callable[[Tensor], Tensor]:
    def keys(queries: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            scores = rows[queries] @ rows.T
        return scores.scatter(1, queries[:, None], float("-inf"))

    return keys
