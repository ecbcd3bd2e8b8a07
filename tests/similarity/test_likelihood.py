"""The likelihood of a caption against loops in float64 over its words, and what it must not read."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.parts import WIDTH, captioner
from vlp.config import build, lazy
from vlp.fusion.co_attention import CoAttention
from vlp.similarity import likelihood
from vlp.similarity.likelihood import CaptionLikelihood
from vlp.types import Stream

ROWS, LENGTH, D, V = 5, 7, 6, 9


def made(seed: int = 0) -> tuple[CaptionLikelihood, Tensor, Stream, Tensor]:
    """A head far from its beginning, states, captions of two to seven words with any content behind, embeddings."""
    g = torch.Generator().manual_seed(seed)
    head = CaptionLikelihood(width=D, vocab_size=V).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    lengths = torch.randint(2, LENGTH + 1, (ROWS, 1), generator=g)
    states = torch.randn(ROWS, LENGTH, D, generator=g).double()
    ids = torch.randint(0, V, (ROWS, LENGTH), generator=g)
    text = Stream(torch.randn(ROWS, LENGTH, D, generator=g), torch.arange(LENGTH) < lengths, ids)
    return head, states, text, torch.randn(V, D, generator=g).double()


def told(head: CaptionLikelihood, state: list[float], words: Tensor) -> list[float]:
    """Log-probability of every word after one state: dense, GELU, norm, embeddings, bias, softmax."""
    part = head.told
    weights, biases = part.dense.weight.tolist(), part.dense.bias.tolist()
    hidden = [sum(w * x for w, x in zip(row, state, strict=True)) + b for row, b in zip(weights, biases, strict=True)]
    hidden = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in hidden]
    mean = sum(hidden) / D
    deviation = math.sqrt(sum((x - mean) ** 2 for x in hidden) / D)
    scale, shift = part.norm.weight.tolist(), part.norm.bias.tolist()
    hidden = [(x - mean) / deviation * s + t for x, s, t in zip(hidden, scale, shift, strict=True)]
    logits = [sum(a * b for a, b in zip(row, hidden, strict=True)) for row in words.tolist()]
    logits = [z + b for z, b in zip(logits, part.bias.tolist(), strict=True)]
    norm = math.log(sum(math.exp(z) for z in logits))
    return [z - norm for z in logits]


@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_it_is_the_sum_or_mean_over_the_words_behind_the_first(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "WORDS", chunk)
    head, states, text, words = made()
    found = head.log_likelihood(states, text, words).detach()
    head.per = "word"
    mean = head.log_likelihood(states, text, words).detach()
    assert text.ids is not None
    for row in range(ROWS):
        length, total = int(text.mask[row].sum()), 0.0
        for place in range(1, length):
            total += told(head, states[row, place - 1].tolist(), words)[int(text.ids[row, place])]
        assert abs(float(found[row]) - total) < 1e-9
        assert abs(float(mean[row]) - total / (length - 1)) < 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_padding_and_the_order_of_the_batch_change_nothing(seed: int, extra: int) -> None:
    head, states, text, words = made(seed)
    g = torch.Generator().manual_seed(seed + 1)
    shape = (ROWS, LENGTH + extra)
    mask = torch.cat([text.mask, torch.zeros(ROWS, extra, dtype=torch.bool)], 1)
    other_states, other_ids = torch.randn(*shape, D, generator=g).double(), torch.randint(0, V, shape, generator=g)
    other_states[mask], other_ids[mask] = states[text.mask], text.ids[text.mask]  # type: ignore[index]
    order = torch.randperm(ROWS, generator=g)
    moved = Stream(torch.randn(*shape, D, generator=g), mask, other_ids).select(order)
    found = head.log_likelihood(other_states[order], moved, words)
    torch.testing.assert_close(found, head.log_likelihood(states, text, words)[order])


def test_what_is_ranked_is_fp32_under_autocast() -> None:
    head, states, text, words = made()
    outside = head.float().log_likelihood(states.float(), text, words.float())
    with torch.autocast("cpu", torch.bfloat16):
        inside = head.log_likelihood(states.float(), text, words.float())
    assert inside.dtype is torch.float32
    assert torch.equal(inside, outside)


def test_what_cannot_tell_words_is_refused() -> None:
    head, states, text, words = made()
    with pytest.raises(ValueError, match="needs the words of the captions"):
        head.log_likelihood(states, Stream(text.tokens, text.mask), words)
    both_ways, co_attention = captioner(), captioner()
    both_ways["model"].kwargs["text"].kwargs["causal"] = False
    with pytest.raises(ValueError, match="causal=true"):
        build(both_ways["model"])
    co_attention["model"].kwargs["fusion"] = lazy(CoAttention)(
        text_width=WIDTH, image_width=WIDTH, width=WIDTH, heads=4
    )
    with pytest.raises(ValueError, match="CoAttention tells no word"):
        build(co_attention["model"])
