"""Late interaction against loops in float64."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.similarity.late import LateInteraction, late_scores
from vlp.types import Stream


def stream(g: torch.Generator, rows: int, length: int, width: int) -> Stream:
    lengths = torch.randint(1, length + 1, (rows,), generator=g)
    tokens = torch.nn.functional.normalize(torch.randn(rows, length, width, generator=g), dim=-1)
    return Stream(tokens, torch.arange(length)[None] < lengths[:, None])


def weighed(cosines: list[float], spread: float) -> float:
    """The largest, or the mean weighed by exp(cosine / spread)."""
    if not spread:
        return max(cosines)
    weights = [math.exp(cosine / spread) for cosine in cosines]
    return sum(w * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)


def slow(one: Stream, two: Stream, spread: float = 0.0) -> list[list[float]]:
    """FILIP's equation 4: the mean over tokens of `one` of the best inner product with a token of `two`."""
    table = []
    for a, a_mask in zip(one.tokens.double(), one.mask, strict=True):
        row = []
        for b, b_mask in zip(two.tokens.double(), two.mask, strict=True):
            best = [weighed([float(x @ y) for y in b[b_mask]], spread) for x in a[a_mask]]
            row.append(sum(best) / len(best))
        table.append(row)
    return table


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 0.1, 2.0]))
def test_both_similarities_are_those_of_the_paper(seed: int, images: int, texts: int, spread: float) -> None:
    g = torch.Generator().manual_seed(seed)
    image, text = stream(g, images, 5, 6), stream(g, texts, 4, 6)
    to_text, to_image = late_scores(image, text, spread)
    assert torch.allclose(to_text.double(), torch.tensor(slow(image, text, spread), dtype=torch.float64), atol=1e-5)
    assert torch.allclose(to_image.double().T, torch.tensor(slow(text, image, spread), dtype=torch.float64), atol=1e-5)


def test_chunks_change_neither_scores_nor_gradients() -> None:
    g = torch.Generator().manual_seed(0)
    image, text = (Stream(s.tokens.double(), s.mask) for s in (stream(g, 3, 5, 8), stream(g, 5, 4, 8)))
    results = []
    for chunk in (None, 2):
        torch.manual_seed(1)
        late = LateInteraction(image_width=8, text_width=8, embed_dim=6, chunk=chunk).double()
        scores = late.scores(image, text)
        scores.square().sum().backward()
        results.append([scores.detach(), *(p.grad for p in late.parameters())])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


def test_pairs_are_the_diagonal_and_the_temperature_stays_in_its_range() -> None:
    g = torch.Generator().manual_seed(0)
    image, text = stream(g, 4, 5, 8), stream(g, 4, 4, 8)
    late = LateInteraction(image_width=8, text_width=8, embed_dim=6)
    torch.testing.assert_close(late.pairs(image, text), late.scores(image, text).diagonal())
    late.logit_scale.data.fill_(50.0)
    late.after_step()
    assert abs(float(late.scale().detach()) - 100.0) < 1e-3
