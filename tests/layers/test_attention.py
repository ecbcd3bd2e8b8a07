"""Attention on a CPU in bf16 against float64, and against the fused kernel."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlp.layers.attention import attend


def streams(seed: int, rows: int, heads: int, queries: int, keys: int) -> tuple[list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = (queries, keys, keys)
    tensors = [torch.randn(rows, n, heads, 8, generator=g).transpose(1, 2).bfloat16() for n in shapes]
    mask = torch.rand(rows, 1, 1, keys, generator=g) < 0.7
    mask[..., 0] = True
    return tensors, mask


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_bf16_attention_is_attention(seed: int, rows: int, queries: int, keys: int, masked: bool) -> None:
    (q, k, v), mask = streams(seed, rows, 2, queries, keys)
    scores = torch.einsum("rhqd,rhkd->rhqk", q.double(), k.double()) / 8**0.5
    weights = torch.where(mask, scores.exp(), 0.0) if masked else scores.exp()
    expected = torch.einsum("rhqk,rhkd->rhqd", weights / weights.sum(-1, keepdim=True), v.double())
    got = attend(q, k, v, mask if masked else None, 0.0)
    assert got.dtype is torch.bfloat16
    assert (got.double() - expected).abs().max() < 0.03 * v.double().abs().max()


def test_its_gradients_are_those_of_the_fused_kernel() -> None:
    tensors, mask = streams(0, 4, 2, 7, 9)
    results = []
    for form in ("plain", "fused"):
        q, k, v = (t.clone().requires_grad_() if form == "plain" else t.float().requires_grad_() for t in tensors)
        out = attend(q, k, v, mask, 0.0) if form == "plain" else F.scaled_dot_product_attention(q, k, v, mask)
        out.float().square().sum().backward()
        results.append([t.grad.float() for t in (q, k, v)])  # type: ignore[union-attr]
    for one, two in zip(*results, strict=True):
        assert (one - two).norm() < 0.02 * two.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k = torch.zeros(1, 1, 1, 8, dtype=dtype), torch.zeros(1, 1, 400, 8, dtype=dtype)
    v = torch.ones(1, 1, 400, 8, dtype=dtype)
    dropped = torch.stack([attend(q, k, v, None, 0.5)[0, 0, 0, 0].float() for _ in range(200)])
    assert abs(float(dropped.mean()) - 1) < 0.02
    assert 0.03 < float(dropped.std()) < 0.07  # sqrt(0.5 / 0.5 / 400) = 0.05
