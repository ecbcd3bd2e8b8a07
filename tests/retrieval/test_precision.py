"""R-precision, mAP@R and hits of many positives against every order of tied items, exactly."""

from fractions import Fraction
from itertools import permutations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlp.retrieval.precision import counts, many_positive_metrics, precisions
from vlp.retrieval.ranking import Ranking, Staged
from vlp.retrieval.ranks import retrieval_metrics


def orders(scores: list[float]) -> list[tuple[int, ...]]:
    """Every order of the items in which no item stands before a better one."""
    return [
        order
        for order in permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False))
    ]


def slow(scores: list[float], positive: list[bool]) -> tuple[Fraction, Fraction, Fraction]:
    """Hit at 1, R-precision and mAP@R: means over all orders, each by its definition."""
    found = orders(scores)
    wanted = sum(positive)
    totals = [Fraction(0)] * 3
    for order in found:
        hits = [positive[item] for item in order]
        totals[0] += hits[0]
        totals[1] += Fraction(sum(hits[:wanted]), wanted)
        totals[2] += (
            sum((Fraction(sum(hits[:k]), k) for k in range(1, wanted + 1) if hits[k - 1]), Fraction(0)) / wanted
        )
    return totals[0] / len(found), totals[1] / len(found), totals[2] / len(found)


@st.composite
def judged(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores with many ties and any positives, at least one a query."""
    queries, items = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    values = draw(st.lists(st.integers(0, 2), min_size=queries * items, max_size=queries * items))
    marks = draw(st.lists(st.booleans(), min_size=queries * items, max_size=queries * items))
    positive = torch.tensor(marks).view(queries, items)
    positive[torch.arange(queries), torch.tensor([draw(st.integers(0, items - 1)) for _ in range(queries)])] = True
    return torch.tensor(values).float().view(queries, items), positive


@settings(max_examples=80, deadline=None)
@given(judged())
def test_figures_are_expectations_over_random_orders_of_ties(case: tuple[Tensor, Tensor]) -> None:
    scores, positive = case
    precision, mean_precision = precisions(scores, positive)
    hit = counts(scores, positive).hit(1)
    for row in range(len(scores)):
        expected = slow(scores[row].tolist(), positive[row].tolist())
        for got, wanted in zip((hit[row], precision[row], mean_precision[row]), expected, strict=True):
            assert abs(float(got) - float(wanted)) < 1e-9


@settings(max_examples=60, deadline=None)
@given(judged(), st.integers(0, 999), st.integers(1, 6))
def test_candidates_stand_before_all_others_whatever_their_scores(
    case: tuple[Tensor, Tensor], seed: int, k: int
) -> None:
    """Keys of a staged ranking against float scores moved apart by hand, both ways."""
    first, positive = case
    second = torch.randint(-2, 2, first.shape, generator=torch.Generator().manual_seed(seed)).float() * 1e-3
    stage = Staged.of(first, k)
    ranking = Ranking(second, stage)
    images, texts = torch.arange(first.shape[0]), torch.arange(first.shape[1])
    sides = (
        (ranking.image_keys(images), torch.where(stage.image_candidates, second + 10, first - 10), positive),
        (ranking.text_keys(texts), torch.where(stage.text_candidates, second + 10, first - 10).T, None),
    )
    for keys, moved, marks in sides:
        one, two = keys[:, :, None] - keys[:, None], moved[:, :, None] - moved[:, None]
        assert torch.equal(one.sign().float(), two.sign())
        if marks is not None:
            assert many_positive_metrics(keys, marks) == many_positive_metrics(moved, marks)


def test_one_positive_a_query_is_ordinary_recall() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (12, 12), generator=g).float()
    owners = torch.randperm(12, generator=g)
    ordinary = retrieval_metrics(scores, owners)
    owned = owners[None] == torch.arange(12)[:, None]
    for side, keys, marks in (("image to text", scores, owned), ("text to image", scores.T, owned.T)):
        got = many_positive_metrics(keys.contiguous(), marks)
        assert all(abs(got[f"R@{k}"] - ordinary[side][f"R@{k}"]) < 1e-9 for k in (1, 5, 10))
        assert abs(got["R-precision"] - got["R@1"]) < 1e-9
        assert abs(got["mAP@R"] - got["R@1"]) < 1e-9
