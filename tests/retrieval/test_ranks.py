"""Metrics against brute force over every order of tied items, float64."""

from fractions import Fraction
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlp.retrieval.ranks import (
    Outcome,
    check_finite,
    count_image_to_text,
    count_text_to_image,
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


def test_scores_whose_sum_overflows_are_numbers_all_the_same() -> None:
    check_finite(torch.full((4, 4), 3e38), "any")


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
    assert flat(got) == pytest.approx(flat(Outcome(forward, backward).metrics()))


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


@pytest.mark.parametrize(
    ("shape", "owners", "message"),
    [
        ((0, 0), [], "an empty gallery"),
        ((2, 3), [0, 1], r"shape \(2, 3\) do not fit an id map of 2 captions"),
        ((2, 2), [0, 2], "caption 1 picture 2, but the scores have 2 pictures"),
        ((2, 2), [-1, 0], "caption 0 picture -1"),
        ((3, 2), [0, 2], "1 pictures have no caption"),
    ],
)
def test_scores_and_id_maps_that_do_not_fit(shape: tuple[int, int], owners: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(torch.zeros(shape), torch.tensor(owners, dtype=torch.long))


# ---------------------------------------------------------------- how ties are counted

PICTURES, CAPTIONS = 200, 5


def codes(bits: int | None, seed: int = 0) -> Tensor:
    """(N, 5 N) similarities of noisy copies; with `bits` of the signs of so many random projections."""
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(PICTURES, 32, generator=g)
    text = image.repeat_interleave(CAPTIONS, 0) + 1.1 * torch.randn(CAPTIONS * PICTURES, 32, generator=g)
    if bits is not None:
        plane = torch.randn(32, bits, generator=g)
        image, text = (image @ plane).sign(), (text @ plane).sign()
    return torch.nn.functional.normalize(image, dim=1) @ torch.nn.functional.normalize(text, dim=1).T


TABLE = {
    "constant": torch.zeros(PICTURES, CAPTIONS * PICTURES),
    "bf16": codes(None).bfloat16().float(),
    "saturated": torch.sigmoid(30 * codes(None)).half().float(),
    "64 bits": codes(64).mul(64).round(),
    "16 bits": codes(16).mul(16).round(),
}


def naive(scores: Tensor, strict: bool) -> tuple[float, float]:
    """R@1 both ways where an item tied with the positive counts as below it (`strict`) or as above it."""
    owners = torch.arange(scores.shape[1]) // CAPTIONS
    own = scores[owners, torch.arange(len(owners))]
    best = own.view(-1, CAPTIONS).amax(1)
    above = (scores > best[:, None]).sum(1) if strict else (scores >= best[:, None]).sum(1) - 1
    backward = (scores > own).sum(0) if strict else (scores >= own).sum(0) - 1
    return 100 * float((above == 0).double().mean()), 100 * float((backward == 0).double().mean())


def drawn(scores: Tensor, rounds: int = 40) -> tuple[float, float]:
    """Mean R@1 both ways over random orders of tied items."""
    owners = torch.arange(scores.shape[1]) // CAPTIONS
    found = torch.zeros(2, dtype=torch.float64)
    for seed in range(rounds):
        noise = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        jittered = scores.double() + 1e-9 * noise
        found[0] += (owners[jittered.argmax(1)] == torch.arange(len(scores))).double().mean()
        found[1] += (jittered.argmax(0) == owners).double().mean()
    return float(100 * found[0] / rounds), float(100 * found[1] / rounds)


@pytest.mark.parametrize("name", TABLE)
def test_ties_favour_nobody(name: str) -> None:
    """ "Strictly greater" flatters, "greater or equal" punishes; the figure reported is the mean over chance."""
    scores = TABLE[name]
    owners = torch.arange(scores.shape[1]) // CAPTIONS
    metrics = retrieval_metrics(scores, owners)
    got = metrics["image to text"]["R@1"], metrics["text to image"]["R@1"]
    flattering, punishing = naive(scores, strict=True), naive(scores, strict=False)
    for side in (0, 1):
        assert punishing[side] <= got[side] <= flattering[side]
    assert punishing[1] < got[1] < flattering[1]
    assert got == pytest.approx(drawn(scores), abs=1.0)
    order = torch.randperm(len(owners), generator=torch.Generator().manual_seed(1))
    assert flat(retrieval_metrics(scores[:, order], owners[order])) == pytest.approx(flat(metrics))
    if name == "constant":
        assert flattering == (100.0, 100.0)
        assert punishing == (0.0, 0.0)
        assert got == pytest.approx((100 / PICTURES, 100 / PICTURES))


def test_without_ties_all_ways_of_counting_agree() -> None:
    scores = codes(None)
    metrics = retrieval_metrics(scores, torch.arange(scores.shape[1]) // CAPTIONS)
    got = metrics["image to text"]["R@1"], metrics["text to image"]["R@1"]
    assert got == pytest.approx(naive(scores, strict=True))
    assert got == pytest.approx(naive(scores, strict=False))


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_scores_that_are_nan_are_an_error_not_a_recall(share: float) -> None:
    """A comparison with NaN is never true, so that a broken model would find everything."""
    scores = codes(None)
    scores[:, : int(share * scores.shape[1])] = float("nan")
    assert naive(scores, strict=True)[1] > 50
    with pytest.raises(ValueError, match="not finite"):
        retrieval_metrics(scores, torch.arange(scores.shape[1]) // CAPTIONS)
