"""How far a figure would move with other pictures: percentile intervals over pictures drawn again with replacement.

A picture is drawn together with its captions, which stand or fall together, and keeps what it found in the whole
gallery: the intervals are those of the queries, not of another gallery (percentile method, Efron and Tibshirani 1993,
section 13.3). Stages are compared on the same draws, so a difference is better known than either.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from vlp.retrieval.ranks import RECALLS, SIDES, Outcome

Intervals = dict[str, dict[str, list[float]]]  # [low, high] by direction and metric


def intervals(outcome: Outcome, text_image: Tensor, resamples: int, share: float = 0.95, seed: int = 0) -> Intervals:
    """Of the recalls, and of their sum, in per cent."""
    return _summed([_recalls(outcome, text_image, weights) for weights in _draws(text_image, resamples, seed)], share)


def differences(
    one: Outcome, two: Outcome, text_image: Tensor, resamples: int, share: float = 0.95, seed: int = 0
) -> Intervals:
    """Of what `two` finds more than `one`, over the same draws."""
    draws = _draws(text_image, resamples, seed)
    return _summed([_recalls(two, text_image, w) - _recalls(one, text_image, w) for w in draws], share)


def _draws(text_image: Tensor, resamples: int, seed: int, block: int = 100) -> Iterator[Tensor]:
    """(block, N) float64: how often each picture is in a sample of N pictures."""
    count, generator = int(text_image.max()) + 1, torch.Generator().manual_seed(seed)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = torch.randint(count, (rows, count), generator=generator)
        yield torch.zeros(rows, count, dtype=torch.float64).scatter_add(
            1, drawn, torch.ones(1).double().expand_as(drawn)
        )


def _recalls(outcome: Outcome, text_image: Tensor, weights: Tensor) -> Tensor:
    """(block, 7) per cent: three recalls each way, and their sum."""
    count = weights.shape[1]
    images = torch.stack([outcome.image_to_text.hit(k) for k in RECALLS], 1)  # (N, 3)
    texts = torch.stack([outcome.text_to_image.hit(k) for k in RECALLS], 1)  # (C, 3)
    found = torch.zeros(count, len(RECALLS), dtype=torch.float64).index_add(0, text_image, texts)
    captions = torch.bincount(text_image, minlength=count).double()
    recalls = torch.cat([weights @ images / count, weights @ found / (weights @ captions)[:, None]], 1)
    return 100 * torch.cat([recalls, recalls.sum(1, keepdim=True)], 1)


def _summed(parts: list[Tensor], share: float) -> Intervals:
    tail = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)
    low, high = torch.cat(parts).quantile(tail, dim=0).tolist()
    pairs = iter(zip(low, high, strict=True))
    out = {side: {f"R@{k}": list(next(pairs)) for k in RECALLS} for side in SIDES}
    return out | {"all": {"rsum": list(next(pairs))}}
