"""The order in which one stage, or a second one over a first one's candidates, puts every query's items."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.retrieval.ranks import Outcome, rank, rank_staged
from vlp.retrieval.shortlist import top_candidates


@dataclass
class Staged:
    """What a second stage was given: the first one's scores and the best k of each query by them."""

    first: Tensor  # (N, C)
    k: int
    image_candidates: Tensor  # (N, C) bool, the best captions of each picture
    text_candidates: Tensor  # (N, C) bool, the best pictures of each caption

    @staticmethod
    def of(first: Tensor, k: int) -> "Staged":
        """The candidates of a first stage."""
        return Staged(first, k, *top_candidates(first, k))

    def pairs(self) -> Tensor:
        """(N, C) bool: what the second stage has to score."""
        return self.image_candidates | self.text_candidates


@dataclass
class Ranking:
    """Scores (N, C) that order everything, or with `stage` its candidates, the others behind by the first stage."""

    scores: Tensor
    stage: Staged | None = None

    def outcome(self, text_image: Tensor) -> Outcome:
        """Where the positives stand, both ways."""
        if self.stage is None:
            return rank(self.scores, text_image)
        stage = self.stage
        return rank_staged(stage.first, self.scores, stage.image_candidates, stage.text_candidates, text_image)

    def fold(self, images: slice, texts: Tensor) -> "Ranking":
        """The same stages over a part of the gallery alone: the first one makes its shortlists there."""
        scores = self.scores[images][:, texts]
        if self.stage is None:
            return Ranking(scores)
        return Ranking(scores, Staged.of(self.stage.first[images][:, texts], self.stage.k))

    def image_keys(self, images: Tensor) -> Tensor:
        """(Q, C) numbers that order the captions of these pictures exactly as the ranking does, greater is better."""
        if self.stage is None:
            return self.scores[images]
        return _keys(self.scores[images], self.stage.first[images], self.stage.image_candidates[images])

    def text_keys(self, texts: Tensor) -> Tensor:
        """(Q, N) the same of the pictures of these captions."""
        if self.stage is None:
            return self.scores[:, texts].T.contiguous()
        columns = (x[:, texts].T for x in (self.scores, self.stage.first, self.stage.text_candidates))
        return _keys(*columns)


def _keys(second: Tensor, first: Tensor, candidates: Tensor) -> Tensor:
    """int64: candidates by the second scores above all others by the first ones, ties kept as ties."""
    return torch.where(candidates, _sortable(second) + (1 << 33), _sortable(first))


def _sortable(scores: Tensor) -> Tensor:
    """fp32 to int64 in the same order: the bits of a positive float count up, those of a negative one down."""
    bits = (scores.float() + 0.0).contiguous().view(torch.int32)  # + 0.0 makes -0.0 the 0.0 that it equals
    return torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
