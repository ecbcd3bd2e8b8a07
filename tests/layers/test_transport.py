"""IPOT against a loop reading, and against the exact optimum of small assignments."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.layers.transport import ipot, transport_distance


def slow_ipot(cost: list[list[float]], beta: float, iterations: int) -> list[list[float]]:
    """One pair without padding: cost[word][patch] -> plan[patch][word]."""
    m, n = len(cost), len(cost[0])
    kernel = [[math.exp(-cost[w][p] / beta) for w in range(m)] for p in range(n)]
    plan, sigma = [[1.0] * m for _ in range(n)], [1 / m] * m
    for _ in range(iterations):
        q = [[kernel[p][w] * plan[p][w] for w in range(m)] for p in range(n)]
        delta = [1 / (n * sum(q[p][w] * sigma[w] for w in range(m))) for p in range(n)]
        sigma = [1 / (m * sum(delta[p] * q[p][w] for p in range(n))) for w in range(m)]
        plan = [[delta[p] * q[p][w] * sigma[w] for w in range(m)] for p in range(n)]
    return plan


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9999))
def test_plan_is_the_papers_whatever_the_padding(m: int, n: int, pad_m: int, pad_n: int, seed: int) -> None:
    cost = torch.rand(1, m + pad_m, n + pad_n, generator=torch.Generator().manual_seed(seed)) * 2
    text, image = torch.arange(m + pad_m)[None] < m, torch.arange(n + pad_n)[None] < n
    plan = ipot(cost, text, image, iterations=8)[0]
    expected = torch.tensor(slow_ipot(cost[0, :m, :n].double().tolist(), 0.5, 8))
    torch.testing.assert_close(plan[:n, :m], expected.float(), rtol=1e-3, atol=1e-5)
    assert plan[n:].abs().sum() == 0
    assert plan[:, m:].abs().sum() == 0


def test_many_steps_reach_the_best_assignment() -> None:
    cost = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    full = torch.ones(1, 4, dtype=torch.bool)
    plan = ipot(cost, full, full, iterations=2000)
    best = min(sum(float(cost[0, w, p]) for w, p in enumerate(order)) / 4 for order in itertools.permutations(range(4)))
    assert abs(float((cost[0].T * plan[0]).sum()) - best) < 1e-3


def test_padding_content_changes_no_distance() -> None:
    g = torch.Generator().manual_seed(0)
    text, image = torch.randn(2, 5, 8, generator=g), torch.randn(2, 6, 8, generator=g)
    tm, im = torch.arange(5)[None] < torch.tensor([[3], [5]]), torch.arange(6)[None] < torch.tensor([[6], [2]])
    before = transport_distance(text, image, tm, im, beta=0.5, iterations=20)
    text[~tm], image[~im] = 99.0, -99.0
    torch.testing.assert_close(transport_distance(text, image, tm, im, beta=0.5, iterations=20), before)
