"""Cross-attention of words over patches against a loop over pictures, captions, words and patches in float64."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlp.similarity.token_pairs import TokenSimilarity
from vlp.similarity.word_attention import WordAttention
from vlp.types import Stream

WIDTH = 5


def ragged(rows: int, longest: int, g: torch.Generator) -> Stream:
    """Unit tokens, every row with at least one, holes within, and content under the mask that must not matter."""
    tokens = F.normalize(torch.randn(rows, longest, WIDTH, generator=g, dtype=torch.float64), dim=-1)
    mask = torch.rand(rows, longest, generator=g) > 0.4
    mask[:, 0] = True
    return Stream(tokens, mask)


def scorer(seed: int) -> WordAttention:
    made = WordAttention(embed_dim=WIDTH, sharpness=7.0).double()
    with torch.no_grad():
        made.word_weight.weight.copy_(torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed)))
    return made


def slow_score(made: WordAttention, patches: list[Tensor], words: list[Tensor]) -> float:
    weights = [math.exp(float(w @ made.word_weight.weight[0])) for w in words]
    total = 0.0
    for weight, word in zip(weights, words, strict=True):
        shares = [math.exp(7.0 * float(word @ p)) for p in patches]
        read = sum(s / sum(shares) * p for s, p in zip(shares, patches, strict=True))
        total += weight / sum(weights) * float(F.cosine_similarity(word, torch.as_tensor(read), dim=0))
    return math.exp(float(made.logit_scale)) * total


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(0, 10_000))
@torch.no_grad()
def test_every_pair_is_the_loop_over_its_words(b: int, n: int, c: int, length: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    image, text, made = ragged(b, n, g), ragged(c, length, g), scorer(seed)
    scores = made(image, text)
    for i in range(b):
        for j in range(c):
            patches, words = list(image.tokens[i][image.mask[i]]), list(text.tokens[j][text.mask[j]])
            assert abs(float(scores[i, j]) - slow_score(made, patches, words)) < 1e-9


def test_tiles_change_neither_scores_nor_gradients() -> None:
    g = torch.Generator().manual_seed(0)
    image, text = ragged(7, 4, g), ragged(6, 5, g)
    found = []
    for limit in (1 << 26, 300):  # one tile, and tiles of three pairs
        made = scorer(1)
        similarity = TokenSimilarity(image=torch.nn.Identity(), text=torch.nn.Identity(), scorer=made, limit=limit)
        scores = similarity.scores(image, text)
        (scores * torch.arange(42.0).view(7, 6)).sum().backward()
        found.append((scores.detach(), made.word_weight.weight.grad, made.logit_scale.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_the_temperature_stays_in_its_bounds() -> None:
    made = scorer(0)
    for value, wanted in ((9.0, math.log(100)), (-3.0, math.log(2))):
        with torch.no_grad():
            made.logit_scale.fill_(value)
        made.after_step()
        assert abs(float(made.logit_scale) - wanted) < 1e-6
