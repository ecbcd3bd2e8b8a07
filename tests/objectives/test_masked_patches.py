"""FashionBERT's divergence against loops in float64."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.objectives.masked_patches import softmax_divergence


def divergence(predicted: torch.Tensor, features: torch.Tensor) -> float:
    """KL(softmax(features) || softmax(predicted)) of one row."""
    q, p = predicted.double().tolist(), features.double().tolist()
    norm_q, norm_p = (math.log(sum(math.exp(v) for v in z)) for z in (q, p))
    return sum(math.exp(b - norm_p) * ((b - norm_p) - (a - norm_q)) for a, b in zip(q, p, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6))
def test_the_divergence_is_that_of_the_paper(seed: int, rows: int, width: int) -> None:
    g = torch.Generator().manual_seed(seed)
    predicted, features = 3 * torch.randn(rows, width, generator=g), 3 * torch.randn(rows, width, generator=g)
    total = sum(divergence(q, p) for q, p in zip(predicted, features, strict=True))
    assert abs(float(softmax_divergence(predicted, features)) - total / rows) < 1e-4


def test_no_hidden_place_is_no_loss() -> None:
    assert float(softmax_divergence(torch.zeros(0, 3), torch.zeros(0, 3))) == 0.0
