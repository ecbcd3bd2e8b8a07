"""Recall and ranks from score matrices, exact under ties.

Scores are (N, C): N pictures, C captions, `text_image` (C,) the picture of each caption. A picture's rank is that of
its best caption; a caption has one picture. Ties are broken at random and the expectation is reported, so a constant
scorer scores chance; a score that is not finite is an error.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

RECALLS = (1, 5, 10)


@dataclass
class Counts:
    """For each query: items strictly above its best positive, items tied with it, positives among those."""

    above: Tensor  # (queries,) int64
    tied: Tensor  # (queries,) int64, the positive included
    positives: Tensor  # (queries,) int64, at least 1

    def hit(self, k: int) -> Tensor:
        """(queries,) float64 probability that a positive is among the first k, over random orders of the tied.

        With m places left for e tied items of which p are positive: 1 - C(e - p, m) / C(e, m).
        """
        places = k - self.above
        tied, others = self.tied.double(), (self.tied - self.positives).double()
        drawn = torch.minimum(places.clamp(min=0), self.tied).double()
        log_miss = _log_choose(others, drawn) - _log_choose(tied, drawn)
        miss = torch.where(drawn > others, torch.zeros_like(drawn), log_miss.exp())
        return torch.where(places > 0, 1 - miss, torch.zeros_like(miss))

    def rank(self) -> Tensor:
        """(queries,) float64 expected rank of the first positive, 0 the best."""
        return self.above + (self.tied - self.positives).double() / (self.positives + 1)

    def metrics(self) -> dict[str, float]:
        """R@1, R@5, R@10 and tie share in per cent; median and mean rank, 1 the best."""
        rank, out = self.rank(), {f"R@{k}": 100 * float(self.hit(k).mean()) for k in RECALLS}
        out["median rank"] = float(rank.quantile(0.5).floor()) + 1
        out["mean rank"] = float(rank.mean()) + 1
        out["ties"] = 100 * float((self.tied > self.positives).double().mean())
        return out


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma((n - k).clamp(min=0) + 1)


def check_finite(scores: Tensor, what: str) -> None:
    """Raise ValueError where a score is NaN or infinite: it would rank somewhere by accident."""
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {scores.numel()} {what} scores are not finite; the model or its precision is broken"
        )


def _best(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """(count,) largest of the values of each owner."""
    return torch.full((count,), float("-inf"), dtype=values.dtype).scatter_reduce(0, owners, values, "amax")


def count_image_to_text(scores: Tensor, text_image: Tensor) -> Counts:
    """Counts of every picture as a query. Raises ValueError for a picture without captions."""
    own = scores.gather(0, text_image[None])[0]
    best = _best(own, text_image, len(scores))
    if torch.isinf(best).any():
        raise ValueError(f"{int(torch.isinf(best).sum())} pictures have no caption, so image-to-text has no answer")
    positives = torch.zeros(len(scores), dtype=torch.long).index_add(0, text_image, (own == best[text_image]).long())
    blocks = [(s, b[:, None]) for s, b in zip(scores.split(256), best.split(256), strict=True)]
    above = torch.cat([(s > b).sum(1) for s, b in blocks])
    tied = torch.cat([(s == b).sum(1) for s, b in blocks])
    return Counts(above, tied, positives)


def count_text_to_image(scores: Tensor, text_image: Tensor) -> Counts:
    """Counts of every caption as a query."""
    own = scores.gather(0, text_image[None])
    above = sum(((s > own).sum(0) for s in scores.split(256)), torch.zeros(len(text_image), dtype=torch.long))
    tied = sum(((s == own).sum(0) for s in scores.split(256)), torch.zeros(len(text_image), dtype=torch.long))
    return Counts(above, tied, torch.ones_like(above))


def retrieval_metrics(scores: Tensor, text_image: Tensor) -> dict[str, dict[str, float]]:
    """Both directions of one score matrix, and rsum, the sum of the six recalls."""
    scores = scores.float()
    check_finite(scores, "retrieval")
    return both(count_image_to_text(scores, text_image), count_text_to_image(scores, text_image))


def both(image_to_text: Counts, text_to_image: Counts) -> dict[str, dict[str, float]]:
    """Metrics of the two directions and `rsum`."""
    out = {"image to text": image_to_text.metrics(), "text to image": text_to_image.metrics()}
    return out | {"all": {"rsum": sum(d[f"R@{k}"] for d in out.values() for k in RECALLS)}}


def reranked_metrics(
    first: Tensor, second: Tensor, image_candidates: Tensor, text_candidates: Tensor, text_image: Tensor
) -> dict[str, dict[str, float]]:
    """Metrics of a first stage whose candidates a second one orders anew.

    `image_candidates` (N, C) marks each picture's top captions, `text_candidates` (N, C) each caption's top pictures;
    `second` needs values there only. Items that are no candidates follow behind all candidates in first-stage order,
    so median and mean rank are those of a full list.
    """
    check_finite(first, "first-stage")
    check_finite(second[image_candidates | text_candidates], "re-ranking")
    forward = _staged_rows(first, second, image_candidates, _owned(text_image, len(first)))
    backward = _staged_rows(first.T, second.T, text_candidates.T, _owned(text_image, len(first)).T)
    return both(forward, backward)


def _owned(text_image: Tensor, num_images: int) -> Tensor:
    """(N, C) bool: which caption belongs to which picture."""
    return text_image[None] == torch.arange(num_images)[:, None]


def _staged_rows(first: Tensor, second: Tensor, candidates: Tensor, positive: Tensor) -> Counts:
    parts = [
        _staged(*(x[i : i + 256] for x in (first, second, candidates, positive))) for i in range(0, len(first), 256)
    ]
    return Counts(*(torch.cat([getattr(p, f) for p in parts]) for f in ("above", "tied", "positives")))


def _staged(first: Tensor, second: Tensor, candidates: Tensor, positive: Tensor) -> Counts:
    """Counts of a block of queries: among the candidates where a positive is one, else behind them all."""
    low = float("-inf")
    inside = (candidates & positive).any(1, keepdim=True)
    best_second = second.masked_fill(~(candidates & positive), low).amax(1, keepdim=True)
    best_first = first.masked_fill(~positive, low).amax(1, keepdim=True)
    above = torch.where(inside, candidates & (second > best_second), candidates | (first > best_first))
    tied = torch.where(inside, candidates & (second == best_second), ~candidates & (first == best_first))
    return Counts(above.sum(1), tied.sum(1), (tied & positive).sum(1))


def fold_metrics(scores: Tensor, text_image: Tensor, fold: int = 1000) -> dict[str, dict[str, float]]:
    """COCO 1K: mean over contiguous folds of pictures with their captions, and the spread (standard deviation) of rsum.

    Raises ValueError where the pictures do not fill whole folds.
    """
    if len(scores) % fold:
        raise ValueError(f"{len(scores)} pictures do not make whole folds of {fold}")
    parts = []
    for start in range(0, len(scores), fold):
        inside = (text_image >= start) & (text_image < start + fold)
        parts.append(retrieval_metrics(scores[start : start + fold, inside], text_image[inside] - start))
    mean = {d: {k: sum(p[d][k] for p in parts) / len(parts) for k in parts[0][d]} for d in parts[0]}
    rsums = torch.tensor([p["all"]["rsum"] for p in parts], dtype=torch.float64)
    mean["all"]["rsum spread"] = float(rsums.std(unbiased=False))
    return mean
