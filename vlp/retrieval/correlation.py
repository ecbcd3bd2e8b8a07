"""Spearman's rank correlation of scores with ratings, plain and over the samples of CxC (Parekh 2021)."""

import torch
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """(P,) -> (P,) float64 ranks from 1, tied values the mean of theirs."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    means: Tensor = last - (count - 1) / 2
    return means[place]


def spearman(one: Tensor, two: Tensor) -> float:
    """Of (P,) and (P,), the correlation of their ranks. 0 where either is constant: it tells nothing of the other."""
    first, second = (found - found.mean() for found in (ranks(one), ranks(two)))
    length = float(first.norm() * second.norm())
    return float(first @ second) / length if length else 0.0


def sampled_spearman(query: Tensor, one: Tensor, two: Tensor, samples: int, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over samples: half of the queries, drawn without replacement, and of each one of its
    pairs. `query` (P,) says whose each pair is. Ratings of one query hang together, hence one of each."""
    generator = torch.Generator().manual_seed(seed)
    order = query.argsort(stable=True)
    held = query.unique(return_counts=True)[1]
    starts, found = held.cumsum(0) - held, []
    for _ in range(samples):
        drawn = torch.randperm(len(held), generator=generator)[: max(len(held) // 2, 1)]
        chosen = (torch.rand(len(drawn), generator=generator, dtype=torch.float64) * held[drawn]).long()
        pairs = order[starts[drawn] + chosen]
        found.append(spearman(one[pairs], two[pairs]))
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std(unbiased=False))
