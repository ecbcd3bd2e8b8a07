"""Figures over folds are the mean of block figures, one stage or two."""

import pytest
import torch

from vlp.retrieval.folds import fold_metrics, fold_pairs
from vlp.retrieval.ranking import Ranking, Staged
from vlp.retrieval.ranks import SIDES, reranked_metrics, retrieval_metrics
from vlp.retrieval.shortlist import top_candidates

OWNERS = torch.tensor([0, 3, 3, 1, 2, 0, 4, 5, 5, 2, 4, 1])  # captions in any order
FOLDS = [(slice(0, 2), [0, 3, 5, 11]), (slice(2, 4), [1, 2, 4, 9]), (slice(4, 6), [6, 7, 8, 10])]


def scores(seed: int) -> torch.Tensor:
    return torch.randn(6, 12, generator=torch.Generator().manual_seed(seed))


def blocks(first: torch.Tensor, second: torch.Tensor | None, k: int) -> list[dict[str, dict[str, float]]]:
    made = []
    for images, texts in FOLDS:
        block, owners = first[images][:, texts], OWNERS[texts] - images.start
        if second is None:
            made.append(retrieval_metrics(block, owners))
        else:
            made.append(reranked_metrics(block, second[images][:, texts], *top_candidates(block, k), owners))
    return made


@pytest.mark.parametrize("two", [False, True])
def test_folds_are_the_mean_of_blocks(two: bool) -> None:
    first, second = scores(0), scores(1)
    ranking = Ranking(second, Staged.of(first, 2)) if two else Ranking(first)
    parts = blocks(first, second if two else None, 2)
    got = fold_metrics(ranking, OWNERS, fold=2)
    for side in SIDES:
        for name in ("R@1", "R@5", "mean rank", "median rank"):
            values = torch.tensor([part[side][name] for part in parts], dtype=torch.float64)
            assert got[side][name] == pytest.approx(float(values.mean()))
            assert got[side][f"{name} spread"] == pytest.approx(float(values.std(unbiased=False)))
    assert got["all"]["rsum"] == pytest.approx(sum(part["all"]["rsum"] for part in parts) / 3)


def test_what_a_second_stage_must_score_for_folds() -> None:
    first = scores(0)
    pairs = fold_pairs(first, OWNERS, 2, 1)
    for images, texts in FOLDS:
        images_best, texts_best = top_candidates(first[images][:, texts], 1)
        assert torch.equal(pairs[images][:, texts], images_best | texts_best)
    inside = OWNERS[None] // 2 == torch.arange(6)[:, None] // 2
    assert not pairs[~inside].any()


def test_pictures_that_fill_no_whole_folds() -> None:
    for fold in (4, 0, 7):
        with pytest.raises(ValueError, match="whole folds"):
            fold_metrics(Ranking(scores(0)), OWNERS, fold)


def test_one_fold_is_the_whole() -> None:
    got = fold_metrics(Ranking(scores(0)), OWNERS, 6)
    whole = retrieval_metrics(scores(0), OWNERS)
    assert {n: v for n, v in got["image to text"].items() if "spread" not in n} == whole["image to text"]
    assert got["all"]["rsum spread"] == 0.0
