"""Figures for queries with many positives: R-precision and mAP@R (Musgrave 2020, section 3.2; ECCV Caption, Chun 2022).

With R positives, R-precision is their share among the first R items; mAP@R is the mean over the first R places of the
precision up to a place where a positive stands, and 0 elsewhere. Tied items stand in random order and the expectation
is reported: in a group of n tied items with p positives a place holds one with p / n, and of the others before it
in the group (p - 1) / (n - 1) are expected to be positive (McSherry and Najork 2008, section 3.4).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlp.retrieval.ranks import RECALLS, Counts


def precisions(keys: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, G) keys, greater is better, and positives (at least one a query) -> R-precision and mAP@R, (Q,) float64."""
    parts = [_precisions(k, p) for k, p in zip(keys.split(32), positive.split(32), strict=True)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _precisions(keys: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    wanted = positive.sum(1, keepdim=True)  # R
    most = int(wanted.max())
    top = keys.topk(most, dim=1)
    hits = positive.gather(1, top.indices)
    values = top.values
    higher = values[:, None, :] > values[:, :, None]  # (Q, place, other place)
    equal = values[:, None, :] == values[:, :, None]
    above, hits_above = higher.sum(2).double(), (higher & hits[:, None]).sum(2).double()
    # The group of the last place may go on behind it, so it is counted in the whole row.
    last, whole = values == values[:, -1:], keys == values[:, -1:]
    tied = torch.where(last, whole.sum(1, keepdim=True), equal.sum(2)).double()
    good = torch.where(last, (whole & positive).sum(1, keepdim=True), (equal & hits[:, None]).sum(2)).double()
    place = torch.arange(most, dtype=torch.float64)
    before = (place - above) * (good - 1).clamp(min=0) / (tied - 1).clamp(min=1)
    chance = good / tied
    inside = place < wanted
    mean = torch.where(inside, chance * (1 + hits_above + before) / (place + 1), 0.0).sum(1) / wanted[:, 0]
    return torch.where(inside, chance, 0.0).sum(1) / wanted[:, 0], mean


def r_precisions(keys: Tensor, positives: Sequence[Tensor]) -> Tensor:
    """(Q, G) keys and several kinds of positives, each at least one a query -> (kinds, Q) R-precisions, float64, at the
    memory of the keys whatever R is. The tied items of the R-th place share the places left for them."""
    ordered = keys.sort(1, descending=True).values
    found = []
    for positive in positives:
        wanted = positive.sum(1, keepdim=True)
        last = ordered.gather(1, wanted - 1)
        above, tied = keys > last, keys == last
        chance = (tied & positive).sum(1).double() / tied.sum(1)
        hits = (above & positive).sum(1) + (wanted[:, 0] - above.sum(1)) * chance
        found.append(hits / wanted[:, 0])
    return torch.stack(found)


def counts(keys: Tensor, positive: Tensor) -> Counts:
    """How every query's best positive stands among (Q, G) keys."""
    lowest = torch.iinfo(keys.dtype).min if not keys.dtype.is_floating_point else float("-inf")
    best = keys.masked_fill(~positive, lowest).amax(1, keepdim=True)
    tied = keys == best
    return Counts((keys > best).sum(1), tied.sum(1), (tied & positive).sum(1))


def figures(keys: Tensor, positive: Tensor) -> Tensor:
    """(Q, G) keys and positives -> (Q, 5) of each query: hits among the first 1, 5, 10, R-precision and mAP@R."""
    standing = counts(keys, positive)
    return torch.stack([*(standing.hit(k) for k in RECALLS), *precisions(keys, positive)], 1)


def means(of_queries: Tensor) -> dict[str, float]:
    """(Q, 5) of `figures` -> R@1, R@5, R@10 (a positive is found), R-precision and mAP@R, in per cent."""
    names = [*(f"R@{k}" for k in RECALLS), "R-precision", "mAP@R"]
    return dict(zip(names, (100 * of_queries.mean(0)).tolist(), strict=True))


def many_positive_metrics(keys: Tensor, positive: Tensor) -> dict[str, float]:
    """`means` over all queries of (Q, G) keys and positives."""
    return means(figures(keys, positive))
