"""Metrics against brute force over every order of tied items, float64."""

from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlp.retrieval.ranks import (
    both,
    check_finite,
    count_image_to_text,
    count_text_to_image,
    fold_metrics,
    reranked_metrics,
    retrieval_metrics,
)


def flat(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{side} {name}": value for side, inner in metrics.items() for name, value in inner.items()}


def slow_hit(scores: list[float], positive: list[bool], k: int) -> Fraction:
    """Share of all orders of the items, sorted by score, that have a positive among the first k."""
    hits = total = 0
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False)):
            total += 1
            hits += any(positive[i] for i in order[:k])
    return Fraction(hits, total)


def slow_rank(scores: list[float], positive: list[bool]) -> Fraction:
    """Mean place, 0 the first, of the first positive over those orders."""
    places = [
        min(place for place, i in enumerate(order) if positive[i])
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False))
    ]
    return Fraction(sum(places), len(places))


@st.composite
def ragged(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A score matrix with many ties, and captions of 1 to 3 a picture in any order."""
    images = draw(st.integers(1, 4))
    owners = [i for i in range(images) for _ in range(draw(st.integers(1, 2)))]
    owners = draw(st.permutations(owners))
    values = draw(st.lists(st.integers(0, 2), min_size=images * len(owners), max_size=images * len(owners)))
    return torch.tensor(values).float().view(images, len(owners)), torch.tensor(owners)


@settings(max_examples=60, deadline=None)
@given(ragged(), st.integers(1, 4))
def test_hits_and_ranks_are_expectations_over_random_tie_breaks(case: tuple[Tensor, Tensor], k: int) -> None:
    scores, owners = case
    forward, backward = count_image_to_text(scores, owners), count_text_to_image(scores, owners)
    for i, row in enumerate(scores.tolist()):
        positive = (owners == i).tolist()
        assert abs(float(forward.hit(k)[i]) - float(slow_hit(row, positive, k))) < 1e-9
        assert abs(float(forward.rank()[i]) - float(slow_rank(row, positive))) < 1e-9
    for c, column in enumerate(scores.T.tolist()):
        positive = [i == int(owners[c]) for i in range(len(scores))]
        assert abs(float(backward.hit(k)[c]) - float(slow_hit(column, positive, k))) < 1e-9
        assert abs(float(backward.rank()[c]) - float(slow_rank(column, positive))) < 1e-9


def test_a_constant_scorer_scores_chance() -> None:
    metrics = retrieval_metrics(torch.zeros(100, 500), torch.arange(500) // 5)
    assert abs(metrics["text to image"]["R@1"] - 1.0) < 1e-9
    assert abs(metrics["image to text"]["R@1"] - 1.0) < 1e-9
    assert abs(metrics["text to image"]["R@10"] - 10.0) < 1e-9
    assert abs(metrics["text to image"]["mean rank"] - 50.5) < 1e-9
    assert metrics["text to image"]["ties"] == 100.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_an_error(value: float) -> None:
    scores = torch.zeros(3, 3)
    scores[1, 2] = value
    with pytest.raises(ValueError, match="1 of 9"):
        retrieval_metrics(scores, torch.arange(3))
    with pytest.raises(ValueError, match="1 of 9"):
        check_finite(scores, "any")


def test_a_picture_without_captions_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 pictures have no caption"):
        retrieval_metrics(torch.zeros(2, 2), torch.tensor([0, 0]))


@settings(max_examples=30, deadline=None)
@given(ragged(), st.integers(0, 999))
def test_the_order_of_the_gallery_changes_nothing(case: tuple[Tensor, Tensor], seed: int) -> None:
    scores, owners = case
    g = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(len(scores), generator=g), torch.randperm(len(owners), generator=g)
    moved = torch.argsort(rows)[owners[columns]]
    got = retrieval_metrics(scores[rows][:, columns], moved)
    assert flat(got) == pytest.approx(flat(retrieval_metrics(scores, owners)))


@settings(max_examples=40, deadline=None)
@given(ragged(), st.integers(1, 4), st.integers(0, 999))
def test_reranking_puts_candidates_first_and_keeps_the_rest_in_order(
    case: tuple[Tensor, Tensor], k: int, seed: int
) -> None:
    """Against one score per pair that says the same: second stage inside, far below by first stage outside."""
    first, owners = case
    second = torch.randint(0, 3, first.shape, generator=torch.Generator().manual_seed(seed)).float()
    chosen = torch.rand(first.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.5
    other = torch.rand(first.shape, generator=torch.Generator().manual_seed(seed + 2)) < 0.5
    got = reranked_metrics(first, second, chosen, other, owners)
    forward = count_image_to_text(torch.where(chosen, second, first - 100), owners)
    backward = count_text_to_image(torch.where(other, second, first - 100), owners)
    assert flat(got) == pytest.approx(flat(both(forward, backward)))


def test_reranking_everything_is_full_scoring() -> None:
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(7, 14, generator=g), torch.randn(7, 14, generator=g)
    every, owners = torch.ones(7, 14) > 0, torch.arange(14) // 2
    assert reranked_metrics(first, second, every, every, owners) == retrieval_metrics(second, owners)


def test_saturated_scores_do_not_favour_the_positive() -> None:
    """Half of the captions tie with everything: a strictly-greater count would call them all found."""
    scores = torch.ones(10, 10)
    scores[:, :5] = torch.eye(10)[:, :5]
    metrics = retrieval_metrics(scores, torch.arange(10))
    assert abs(metrics["text to image"]["R@1"] - (50 + 5)) < 1e-9


def test_folds_are_the_mean_of_blocks() -> None:
    scores, owners = torch.randn(6, 12, generator=torch.Generator().manual_seed(0)), torch.arange(12) // 2
    blocks = [retrieval_metrics(scores[i : i + 2, 2 * i : 2 * i + 4], torch.tensor([0, 0, 1, 1])) for i in (0, 2, 4)]
    got = fold_metrics(scores, owners, fold=2)
    for side in ("image to text", "text to image"):
        assert got[side]["R@1"] == pytest.approx(sum(b[side]["R@1"] for b in blocks) / 3)
    with pytest.raises(ValueError, match="whole folds"):
        fold_metrics(scores, owners, fold=4)
