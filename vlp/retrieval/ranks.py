"""Recall and ranks from score matrices, exact under ties.

Scores are (N, C): N pictures, C captions, `text_image` (C,) the picture of each caption. A picture's rank is that of
its best caption; a caption has one picture. Ties are broken at random and the expectation is reported, so a constant
scorer scores chance; a score that is not finite is an error.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RECALLS = (1, 5, 10)
Metrics = dict[str, dict[str, float]]
SIDES = ("image to text", "text to image")


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


@dataclass
class Outcome:
    """Both directions of one ranking."""

    image_to_text: Counts
    text_to_image: Counts

    def metrics(self) -> Metrics:
        """Metrics of the two directions and `rsum`, the sum of the six recalls."""
        out = dict(zip(SIDES, (self.image_to_text.metrics(), self.text_to_image.metrics()), strict=True))
        return out | {"all": {"rsum": sum(d[f"R@{k}"] for d in out.values() for k in RECALLS)}}


def check_finite(scores: Tensor, what: str) -> None:
    """Raise ValueError where a score is NaN or infinite: it would rank somewhere by accident."""
    if bool(torch.isfinite(scores.sum())):  # a sum is not finite if a term is not; the converse is looked at below
        return
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {scores.numel()} {what} scores are not finite; the model or its precision is broken"
        )


def check_map(scores: Tensor, text_image: Tensor) -> None:
    """Raise ValueError unless scores (N, C) and an id map (C,) fit, with a caption for every picture 0 .. N - 1."""
    if not scores.numel():
        raise ValueError(f"scores of shape {tuple(scores.shape)}: an empty gallery has no answer to any query")
    if scores.ndim != 2 or text_image.ndim != 1 or scores.shape[1] != len(text_image):
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} do not fit an id map of {len(text_image)} captions; "
            "(pictures, captions) is needed"
        )
    if int(text_image.min()) < 0 or int(text_image.max()) >= len(scores):
        caption = int(((text_image < 0) | (text_image >= len(scores))).nonzero()[0])
        raise ValueError(
            f"the id map gives caption {caption} picture {int(text_image[caption])}, but the scores have "
            f"{len(scores)} pictures, 0 to {len(scores) - 1}"
        )
    bare = int((torch.bincount(text_image, minlength=len(scores)) == 0).sum())
    if bare:
        raise ValueError(f"{bare} pictures have no caption, so image-to-text has no answer; leave them out")


def _best(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """(count,) largest of the values of each owner."""
    return torch.full((count,), float("-inf"), dtype=values.dtype).scatter_reduce(0, owners, values, "amax")


def count_image_to_text(scores: Tensor, text_image: Tensor) -> Counts:
    """Counts of every picture as a query. Raises ValueError for an id map that does not fit."""
    check_map(scores, text_image)
    own = scores.gather(0, text_image[None])[0]
    best = _best(own, text_image, len(scores))
    positives = torch.zeros(len(scores), dtype=torch.long).index_add(0, text_image, (own == best[text_image]).long())
    above, tied = np.empty(len(scores), np.int64), np.empty(len(scores), np.int64)
    for i, (row, mine) in enumerate(zip(scores.numpy(), best.numpy(), strict=True)):
        above[i], tied[i] = np.count_nonzero(row > mine), np.count_nonzero(row == mine)
    return Counts(torch.from_numpy(above), torch.from_numpy(tied), positives)


def count_text_to_image(scores: Tensor, text_image: Tensor) -> Counts:
    """Counts of every caption as a query. Raises ValueError for an id map that does not fit."""
    check_map(scores, text_image)
    own = scores.gather(0, text_image[None])[0].numpy()
    above, tied = np.zeros(len(own), np.int64), np.zeros(len(own), np.int64)
    for block in scores.split(128):  # a count of rows fits a byte, and bytes add up fast
        bytes_above, bytes_tied = np.zeros(len(own), np.uint8), np.zeros(len(own), np.uint8)
        for row in block.numpy():
            bytes_above += row > own
            bytes_tied += row == own
        above, tied = above + bytes_above, tied + bytes_tied
    return Counts(torch.from_numpy(above), torch.from_numpy(tied), torch.ones(len(own), dtype=torch.long))


def rank(scores: Tensor, text_image: Tensor) -> Outcome:
    """Both directions of one score matrix."""
    scores = scores.float().contiguous()
    check_map(scores, text_image)
    check_finite(scores, "retrieval")
    return Outcome(count_image_to_text(scores, text_image), count_text_to_image(scores, text_image))


def rank_staged(
    first: Tensor, second: Tensor, image_candidates: Tensor, text_candidates: Tensor, text_image: Tensor
) -> Outcome:
    """Both directions of a first stage whose candidates a second one orders anew.

    `image_candidates` (N, C) marks each picture's top captions, `text_candidates` (N, C) each caption's top pictures;
    `second` needs values there only. Items that are no candidates follow behind all candidates in first-stage order,
    so median and mean rank are those of a full list.
    """
    check_map(first, text_image)
    check_finite(first, "first-stage")
    check_finite(second[image_candidates | text_candidates], "re-ranking")
    forward = _staged_rows(first, second, image_candidates, _owned(text_image, len(first)))
    backward = _staged_rows(first.T, second.T, text_candidates.T, _owned(text_image, len(first)).T)
    return Outcome(forward, backward)


def retrieval_metrics(scores: Tensor, text_image: Tensor) -> Metrics:
    """Metrics of one score matrix."""
    return rank(scores, text_image).metrics()


def reranked_metrics(
    first: Tensor, second: Tensor, image_candidates: Tensor, text_candidates: Tensor, text_image: Tensor
) -> Metrics:
    """Metrics of `rank_staged`."""
    return rank_staged(first, second, image_candidates, text_candidates, text_image).metrics()


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
