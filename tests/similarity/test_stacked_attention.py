"""SCAN and BFAN against slow readings of their papers: one caption at a time, one fragment at a time, no padding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams import present, stream
from vlp.similarity.stacked_attention import Side, StackedAttention, context, focused, products
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.types import Stream


def slow_shares(query: torch.Tensor, source: torch.Tensor, sharpness: float) -> torch.Tensor:
    """Equations 1-3, fragment by fragment."""
    q, s = len(query), len(source)
    seen = [[float(query[i] @ source[j]) for j in range(s)] for i in range(q)]
    seen = [[v if v > 0 else 0.1 * v for v in row] for row in seen]
    for j in range(s):
        length = math.sqrt(sum(seen[i][j] ** 2 for i in range(q)))
        for i in range(q):
            seen[i][j] /= length
    return (sharpness * torch.tensor(seen, dtype=torch.float64)).softmax(1)


def slow_focus(shares: torch.Tensor, focus: str) -> torch.Tensor:
    """BFAN's equation 6: every fragment against every other."""
    out = torch.zeros_like(shares)
    for i, row in enumerate(shares):
        for j in range(len(row)):
            weights = row.sqrt() if focus == "prob" else torch.ones_like(row)
            if sum(float(weights[t] * (row[j] - row[t])) for t in range(len(row))) > 0:
                out[i, j] = row[j]
    return out / out.sum(1, keepdim=True)


def slow_score(query: torch.Tensor, source: torch.Tensor, sharpness: float, pooling: str, lse: float, focus: str):
    shares = slow_shares(query, source, sharpness)
    if focus != "none":
        shares = slow_focus(shares, focus)
    values = []
    for q, row in zip(query, shares, strict=True):
        read = sum(p * x for p, x in zip(row, source, strict=True))
        values.append(float(q @ read / (q.norm() * read.norm())))
    if pooling == "lse":
        return math.log(sum(math.exp(lse * v) for v in values)) / lse
    return {"mean": sum(values) / len(values), "max": max(values), "sum": sum(values)}[pooling]


@pytest.mark.parametrize("pooling", ["lse", "mean", "max", "sum"])
@pytest.mark.parametrize("focus", ["none", "equal", "prob"])
def test_scores_are_the_papers(pooling: str, focus: str) -> None:
    image, text = stream(3, 6, 8, seed=1, unit=True), stream(4, 5, 8, seed=2, unit=True)
    image.mask[:, :2], text.mask[:, :2] = True, True  # focus needs two fragments
    image.tokens[:] = torch.nn.functional.normalize(image.tokens, dim=2)
    text.tokens[:] = torch.nn.functional.normalize(text.tokens, dim=2)
    settings_ = {"sharpness": 9.0, "image_sharpness": 4.0, "pooling": pooling, "focus": focus, "lse": 6.0}
    ways = {way: StackedAttention(direction=way, **settings_)(image, text) for way in ("text", "image", "both")}
    for b in range(3):
        for c in range(4):
            v, t = present(image, b), present(text, c)
            words = slow_score(t, v, 9.0, pooling, 6.0, focus)
            regions = slow_score(v, t, 4.0, pooling, 6.0, focus)
            assert abs(float(ways["text"][b, c]) - words) < 1e-9
            assert abs(float(ways["image"][b, c]) - regions) < 1e-9
            assert abs(float(ways["both"][b, c]) - words - regions) < 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10_000), st.sampled_from(["equal", "prob"]))
def test_the_closed_form_of_the_focus_is_the_sum_over_pairs(count: int, seed: int, focus: str) -> None:
    g = torch.Generator().manual_seed(seed)
    shares = (3 * torch.randn(1, 1, 4, count, generator=g, dtype=torch.float64)).softmax(3)
    found = focused(shares, torch.tensor(count), focus)[0, 0]
    torch.testing.assert_close(found, slow_focus(shares[0, 0], focus))


def test_equal_shares_all_stay() -> None:
    shares, here = torch.full((1, 1, 1, 4), 0.25), torch.tensor(4)
    for focus in ("equal", "prob"):
        torch.testing.assert_close(focused(shares, here, focus).sum(3), torch.ones(1, 1, 1))


def test_contexts_are_what_the_shares_read() -> None:
    query, source = stream(2, 4, 6, seed=3, unit=True), stream(3, 5, 6, seed=4, unit=True)
    found = context(query, source, 9.0)
    for a in range(2):
        for b in range(3):
            q, s = present(query, a), present(source, b)
            torch.testing.assert_close(found[a, b, : len(q)], slow_shares(q, s, 9.0) @ s)


def similarity(limit: int, width: int = 8) -> TokenSimilarity:
    return TokenSimilarity(
        image=torch.nn.Identity(), text=torch.nn.Identity(), scorer=StackedAttention(direction="both"), limit=limit
    )


def test_tiles_give_the_scores_and_gradients_of_the_whole() -> None:
    found = []
    for limit in (1, 3000, 1 << 26):
        image, text = stream(5, 6, 8, seed=5, unit=True), stream(7, 5, 8, seed=6, unit=True)
        image.tokens.requires_grad_()
        text.tokens.requires_grad_()
        scores = similarity(limit).scores(image, text)
        (scores * torch.arange(35).view(5, 7)).sum().backward()
        found.append((scores.detach(), image.tokens.grad, text.tokens.grad))
    for tiled in found[:-1]:
        for one, two in zip(tiled, found[-1], strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("focus", ["none", "equal", "prob"])
def test_captions_by_length_give_the_scores_and_gradients_of_the_padded_block(whole: bool, focus: str) -> None:
    """Lengths in any order, some equal, and absent words in the middle."""
    found = []
    for by_length in (False, True):
        image, text = stream(4, 6, 8, seed=11, unit=True), stream(7, 5, 8, seed=12, unit=True)
        image.mask[:, :2], text.mask[:, :2] = True, True
        image.mask |= whole
        text.mask[0, 1] = text.mask[3, 0] = False
        image.tokens.requires_grad_()
        text.tokens.requires_grad_()
        some = StackedAttention(direction="both", image_sharpness=4.0, focus=focus)
        if by_length:
            scores = some(image, text)
        else:
            scores = some._scores(products(text.tokens, image.tokens), Side(text), Side(image))
        (scores * torch.arange(28).view(4, 7)).sum().backward()
        found.append((scores.detach(), image.tokens.grad, text.tokens.grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_a_caption_without_a_word_scores_nothing_and_leaves_the_others_alone() -> None:
    image, text = stream(3, 6, 8, seed=1, unit=True), stream(4, 5, 8, seed=2, unit=True)
    text.mask[2] = False
    found, rest = StackedAttention()(image, text), torch.tensor([0, 1, 3])
    assert torch.equal(found[:, 2], torch.zeros(3, dtype=found.dtype))
    torch.testing.assert_close(found[:, rest], StackedAttention()(image, text.select(rest)))


@pytest.mark.parametrize("direction", ["text", "image"])
def test_gradients_are_those_of_finite_differences(direction: str) -> None:
    image, text = stream(2, 3, 4, seed=13, unit=True), stream(3, 4, 4, seed=14, unit=True)
    some = StackedAttention(direction=direction)

    def scores(image_tokens: torch.Tensor, text_tokens: torch.Tensor) -> torch.Tensor:
        return some(Stream(image_tokens, image.mask), Stream(text_tokens, text.mask))

    assert torch.autograd.gradcheck(scores, (image.tokens.requires_grad_(), text.tokens.requires_grad_()))


def test_aligned_pairs_are_the_diagonal() -> None:
    image, text = stream(5, 6, 8, seed=7, unit=True), stream(5, 4, 8, seed=8, unit=True)
    some = similarity(1 << 26)
    torch.testing.assert_close(some.pairs(image, text), some.scores(image, text).diagonal())


def test_padding_has_no_gradient() -> None:
    image, text = stream(3, 6, 8, seed=9, unit=True), stream(3, 4, 8, seed=10, unit=True)
    image.tokens.requires_grad_()
    similarity(1 << 26).scores(image, Stream(text.tokens, text.mask)).sum().backward()
    assert (image.tokens.grad[~image.mask] == 0).all()
    assert image.tokens.grad.isfinite().all()
