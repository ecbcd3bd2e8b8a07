"""DETR's matching and loss against loops in float64."""

import math
from itertools import permutations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.objectives.test_phrase_box import counted
from vlp.objectives.detection import matched, set_loss

CELLS = 20


def boxes(g: torch.Generator, *shape: int) -> torch.Tensor:
    """Corner boxes on a grid, so that overlaps can be counted."""
    low = torch.randint(0, 12, (*shape, 2), generator=g)
    return torch.cat([low, low + torch.randint(1, 8, (*shape, 2), generator=g)], -1) / CELLS


def pair_cost(found: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    """L1 of centre, width and height, and GIoU."""
    one, two = (
        [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (found.tolist(), wanted.tolist())
    )
    return sum(abs(a - b) for a, b in zip(one, two, strict=True)), counted(found, wanted, CELLS)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_matching_and_loss_are_those_of_the_paper(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits, found, wanted = torch.randn(2, 4, 3, generator=g), boxes(g, 2, 4), boxes(g, 2, 3)
    labels = torch.randint(0, 2, (2, 3), generator=g)
    there = torch.tensor([[True, False, True], [False, False, True]])
    probabilities = logits.double().softmax(-1)
    query = matched(probabilities, found, labels, wanted, there)
    entropies, weights, distances, objects = 0.0, 0.0, 0.0, 0
    for b in range(2):
        kept = [r for r in range(3) if there[b, r]]
        cost = {}
        for q in range(4):
            for r in kept:
                distance, overlap = pair_cost(found[b, q], wanted[b, r])
                cost[q, r] = 5 * distance - 2 * overlap - float(probabilities[b, q, int(labels[b, r])])
        ways = permutations(range(4), len(kept))
        best = min(ways, key=lambda way: sum(cost[pair] for pair in zip(way, kept, strict=True)))
        assert [int(query[b, r]) for r in kept] == list(best)
        assert all(int(query[b, r]) == -1 for r in range(3) if r not in kept)
        told = dict(zip(best, kept, strict=True))
        for q in range(4):
            label = int(labels[b, told[q]]) if q in told else 2
            weight = 1.0 if q in told else 0.1
            entropies, weights = entropies - weight * math.log(float(probabilities[b, q, label])), weights + weight
            if q in told:
                distance, overlap = pair_cost(found[b, q], wanted[b, told[q]])
                distances, objects = distances + 5 * distance + 2 * (1 - overlap), objects + 1
    value = set_loss(logits, found, labels, wanted, query, 0.1)
    assert abs(float(value) - (entropies / weights + distances / objects)) < 1e-4


def test_a_picture_without_objects_tells_nothing() -> None:
    logits, found = torch.randn(1, 4, 3), torch.rand(1, 4, 4)
    query = torch.full((1, 2), -1)
    value = set_loss(logits, found, torch.zeros(1, 2, dtype=torch.long), torch.rand(1, 2, 4), query, 0.1)
    torch.testing.assert_close(value, -logits.log_softmax(-1)[0, :, 2].mean())
