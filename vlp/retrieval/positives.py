"""Queries with any number of positives, as pairs of numbers, and their figures at the memory of a few hundred rows."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from vlp.retrieval.precision import figures, means

ROWS = 256  # queries whose keys are held at once


@dataclass
class Positives:
    """Pairs of a query and an item that answers it, in any order; a pair may stand there twice."""

    query: Tensor  # (P,)
    item: Tensor  # (P,)

    @staticmethod
    def joined(*parts: "Positives") -> "Positives":
        """All pairs of several."""
        return Positives(torch.cat([part.query for part in parts]), torch.cat([part.item for part in parts]))

    def turned(self) -> "Positives":
        """Items as queries."""
        return Positives(self.item, self.query)

    def both_ways(self) -> "Positives":
        """Of items of one side: each answers the other."""
        return Positives.joined(self, self.turned())

    def queries(self) -> Tensor:
        """(Q,) those with an answer, in order."""
        found: Tensor = self.query.unique()
        return found

    def marks(self, queries: Tensor, count: int) -> Tensor:
        """(Q, count) bool: which items answer each of these queries."""
        row = torch.full((int(torch.cat([self.query, queries]).max()) + 1,), -1)
        row[queries] = torch.arange(len(queries))
        rows = row[self.query]
        out = torch.zeros(len(queries), count, dtype=torch.bool)
        out[rows[rows >= 0], self.item[rows >= 0]] = True
        return out

    def metrics(self, keys: Callable[[Tensor], Tensor], count: int) -> dict[str, float]:
        """Figures of all queries with an answer. `keys` gives those of (Q,) queries: (Q, count), greater is better."""
        blocks = self.queries().split(ROWS)
        return means(torch.cat([figures(keys(some), self.marks(some, count)) for some in blocks]))


def captions_of_pictures(text_image: Tensor) -> Positives:
    """Every caption answers its picture."""
    return Positives(text_image, torch.arange(len(text_image)))


def captions_of_one_picture(text_image: Tensor) -> Positives:
    """Every caption answers the other ones of its picture."""
    held: dict[int, list[int]] = defaultdict(list)
    for caption, image in enumerate(text_image.tolist()):
        held[image].append(caption)
    pairs = torch.tensor([pair for row in held.values() for pair in permutations(row, 2)], dtype=torch.long)
    return Positives(*pairs.view(-1, 2).T)
