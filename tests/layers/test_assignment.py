"""The assignment against every permutation, and its faults."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.layers.assignment import cheapest_columns


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000), st.integers(0, 5), st.integers(0, 2), st.booleans())
def test_no_permutation_is_cheaper(seed: int, rows: int, more: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    cost = random.normal(size=(rows, rows + more)) * 3
    cost = cost.round() if ties else cost
    found = cheapest_columns(cost)
    assert len(set(found.tolist())) == rows
    best = min((sum(cost[i, j] for i, j in enumerate(p)) for p in permutations(range(rows + more), rows)), default=0.0)
    assert cost[np.arange(rows), found].sum() == pytest.approx(best)


def test_a_large_one_cannot_be_made_cheaper_by_an_exchange() -> None:
    cost = np.random.default_rng(0).random((40, 60))
    found = cheapest_columns(cost)
    free = set(range(60)) - set(found.tolist())
    for i in range(40):
        assert all(cost[i, found[i]] <= cost[i, j] for j in free)
        for k in range(i):
            now, then = cost[i, found[i]] + cost[k, found[k]], cost[i, found[k]] + cost[k, found[i]]
            assert now <= then + 1e-12


@pytest.mark.parametrize("cost", [np.zeros((3, 2)), np.array([[0.0, np.nan]]), np.array([[np.inf, 1.0]])])
def test_costs_that_allow_none_are_refused(cost: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite costs"):
        cheapest_columns(cost)
