"""Figures over contiguous folds of the pictures and their spread: COCO 1K is the mean over five folds of 1,000."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vlp.retrieval.ranking import Ranking, Staged
from vlp.retrieval.ranks import Metrics


def folds_of(text_image: Tensor, num_images: int, fold: int) -> Iterator[tuple[slice, Tensor]]:
    """Pictures and captions of each fold. Raises ValueError where the pictures do not fill whole folds."""
    if fold < 1 or num_images % fold:
        raise ValueError(f"{num_images} pictures do not make whole folds of {fold}")
    for start in range(0, num_images, fold):
        inside = (text_image >= start) & (text_image < start + fold)
        yield slice(start, start + fold), inside.nonzero()[:, 0]


def fold_metrics(ranking: Ranking, text_image: Tensor, fold: int) -> Metrics:
    """Every metric averaged over the folds; beside it `NAME spread`, its standard deviation over them."""
    folds = folds_of(text_image, len(ranking.scores), fold)
    parts = [ranking.fold(images, texts).outcome(text_image[texts] - images.start).metrics() for images, texts in folds]
    return {side: _averaged([part[side] for part in parts]) for side in parts[0]}


def fold_pairs(first: Tensor, text_image: Tensor, fold: int, k: int) -> Tensor:
    """(N, C) bool: the candidates of a first stage within each fold, which are not those in the whole gallery."""
    out = torch.zeros(first.shape, dtype=torch.bool)
    for images, texts in folds_of(text_image, len(first), fold):
        out[images, texts] = Staged.of(first[images][:, texts], k).pairs()
    return out


def _averaged(parts: list[dict[str, float]]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name in parts[0]:
        values = torch.tensor([part[name] for part in parts], dtype=torch.float64)
        out |= {name: float(values.mean()), f"{name} spread": float(values.std(unbiased=False))}
    return out
