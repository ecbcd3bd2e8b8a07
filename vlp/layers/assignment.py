"""The cheapest assignment of rows to columns: the Hungarian method by shortest augmenting paths (Jonker 1987)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.floating[Any]]


def cheapest_columns(cost: Costs) -> NDArray[np.int64]:
    """(R, C) finite costs with R <= C -> (R,) a column for each row, no two alike, of the least total.

    Each row in turn takes the cheapest path of exchanges to a free column; potentials keep reduced costs from falling
    below zero. R passes of at most R steps over C columns. Raises ValueError for more rows than columns, and for costs
    that are not finite.
    """
    rows, columns = cost.shape
    if rows > columns or not np.isfinite(cost).all():
        raise ValueError(f"an assignment needs finite costs and no more rows than columns, not {rows} x {columns}")
    of_row, of_column = np.zeros(rows), np.zeros(columns)  # potentials
    owner = np.full(columns, -1)
    for row in range(rows):
        before, column = _path(cost, row, owner, of_row, of_column)
        while column >= 0:  # hand the columns of the path on, back to where it began
            previous = before[column]
            owner[column] = row if previous < 0 else owner[previous]
            column = previous
    taken = np.flatnonzero(owner >= 0)
    found = np.empty(rows, np.int64)
    found[owner[taken]] = taken
    return found


def _path(
    cost: Costs, row: int, owner: NDArray[np.int64], of_row: Costs, of_column: Costs
) -> tuple[NDArray[np.int64], int]:
    """The cheapest way from `row` to a free column: which column each was reached from (-1: the row itself), and the
    free one. Moves the potentials."""
    columns = len(owner)
    distance, before = np.full(columns, np.inf), np.full(columns, -1)
    done = np.zeros(columns, bool)
    here, last, reached = row, -1, 0.0
    while True:
        length = reached + cost[here] - of_row[here] - of_column
        shorter = ~done & (length < distance)
        distance[shorter], before[shorter] = length[shorter], last
        last = int(np.where(done, np.inf, distance).argmin())
        reached = float(distance[last])
        done[last] = True
        if owner[last] < 0:
            break
        here = int(owner[last])
    closer = reached - distance[done]
    of_row[row] += reached
    of_column[done] -= closer
    moved = owner[done]
    of_row[moved[moved >= 0]] += closer[moved >= 0]
    return before, last
