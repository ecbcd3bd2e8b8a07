"""ITM and its negatives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts import batch
from vlp.layers import draws
from vlp.objectives.itm import matching_loss
from vlp.objectives.negatives import SimilarTextNegatives, grouped, sample_negatives, text_similarity
from vlp.view import View


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10_000))
def test_matching_loss_is_mean_cross_entropy_of_the_weighted_rows(rows: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 2, generator=g)
    label, weight = torch.randint(0, 2, (rows,), generator=g), torch.randint(0, 2, (rows,), generator=g).float()
    kept = [
        -math.log(math.exp(z[y]) / (math.exp(z[0]) + math.exp(z[1])))
        for z, y, w in zip(logits.tolist(), label.tolist(), weight.tolist(), strict=True)
        if w
    ]
    expected = sum(kept) / len(kept) if kept else 0.0
    assert abs(float(matching_loss(logits, label, weight)) - expected) < 1e-5


def test_negatives_follow_the_softmax_of_the_scores() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([[9.0, 0.0, 1.0, 2.0]]).repeat(4, 1)
    ids = torch.tensor([0, 1, 2, 3])
    drawn = torch.stack([sample_negatives(scores, ids)[0] for _ in range(20_000)])[:, 0]
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    e = [0.0, 1.0, math.e, math.e**2]  # own column left out
    for share, weight in zip(shares.tolist(), e, strict=True):
        assert abs(share - weight / sum(e)) < 0.015


def test_scores_that_underflow_still_give_a_legal_negative() -> None:
    scores = torch.tensor([[500.0, -500.0, -900.0], [0.0, 0.0, 0.0], [1e4, -1e4, 3e4]])
    columns, allowed = sample_negatives(scores, torch.tensor([7, 7, 8]))
    assert allowed.all()
    assert columns.tolist()[:2] == [2, 2]
    assert int(columns[2]) in (0, 1)


def test_rows_without_a_stranger_are_marked() -> None:
    _, allowed = sample_negatives(torch.zeros(3, 3), torch.tensor([5, 5, 5]))
    assert not allowed.any()


def test_negatives_within_neighbours_are_those_that_a_rank_of_fewer_pairs_draws() -> None:
    g = torch.Generator().manual_seed(0)
    scores, ids = torch.randn(12, 12, generator=g), torch.tensor([0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 6, 6])
    whole = drawn_for(0, grouped(scores, 4), ids)
    assert whole[1].tolist() == [True] * 8 + [False] * 4
    for start in (0, 4, 8):
        rows = slice(start, start + 4)
        columns, allowed = drawn_for(start, grouped(scores[rows, rows], 4), ids[rows])
        assert torch.equal(allowed, whole[1][rows])
        assert torch.equal((columns + start)[allowed], whole[0][rows][allowed])
    with pytest.raises(ValueError, match="multiple"):
        grouped(scores, 5)
    assert torch.equal(grouped(scores, 0), scores)


def drawn_for(first: int, scores: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(7_360_159_225_231_904_177)  # a seed that no other test takes
    draws.for_rows(11, first)
    return sample_negatives(scores, ids)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 10), st.integers(0, 10_000))
def test_similar_texts_share_rare_words(rows: int, length: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 12, (rows, length), generator=g)
    words = torch.rand(rows, length, generator=g) < 0.7
    sets = [{i for i, w in zip(a, b, strict=True) if w} for a, b in zip(ids.tolist(), words.tolist(), strict=True)]
    rarity = {i: math.log(rows / sum(i in s for s in sets)) for s in sets for i in s}

    def dot(a: set[int], b: set[int]) -> float:
        return sum(rarity[i] ** 2 for i in a & b)

    got = text_similarity(ids, words)
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            norms = math.sqrt(dot(a, a) * dot(b, b))
            assert abs(float(got[i, j]) - (dot(a, b) / norms if norms else 0.0)) < 1e-5


def test_similar_texts_are_drawn_both_ways_and_never_of_the_own_picture() -> None:
    b = batch(size=6, captions_per_image=1)
    b.text_ids[1, :4] = torch.tensor([2, 20, 21, 3])
    b.text_ids[4, :4] = torch.tensor([2, 20, 21, 3])
    b.word_ids[[1, 4]] = -1
    b.word_ids[[1, 4], 1:3] = torch.tensor([0, 1])
    view = View(None, b)  # type: ignore[arg-type]
    own = torch.arange(6)
    torch.manual_seed(0)
    for _ in range(20):
        rows = SimilarTextNegatives(sharpness=60.0).rows(view)
        assert rows.label.tolist() == [1] * 6 + [0] * 12
        assert torch.equal(rows.text, torch.cat([own, rows.text[6:12], own]))
        assert torch.equal(rows.image, torch.cat([own, own, rows.image[12:]]))
        assert (rows.text != rows.image)[6:].all()
        assert (rows.text[7], rows.text[10], rows.image[13], rows.image[16]) == (4, 1, 4, 1)  # the twins in words
    same = SimilarTextNegatives().rows(View(None, batch(size=4, captions_per_image=4)))  # type: ignore[arg-type]
    assert same.weight.tolist() == [1.0] * 4 + [0.0] * 8  # one picture alone has no negatives
