"""RoIAlign against loops in float64, and the cells of a box against their overlap."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.layers.boxes import cells_in, sample_boxes


def bilinear(grid: list[list[float]], y: float, x: float) -> float:
    """The map at a place in cells, whose centres are at halves; constant beyond the outermost centres."""
    height, width = len(grid), len(grid[0])
    y, x = min(max(y - 0.5, 0.0), height - 1.0), min(max(x - 0.5, 0.0), width - 1.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = (1 - dx) * grid[top][left] + dx * grid[top][right]
    return (1 - dy) * upper + dy * ((1 - dx) * grid[below][left] + dx * grid[below][right])


def some_boxes(pictures: int, number: int, g: torch.Generator) -> torch.Tensor:
    return torch.rand(pictures, number, 2, 2, generator=g, dtype=torch.float64).sort(dim=2).values.flatten(2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([(3, 3), (4, 6)]))
def test_a_box_is_the_mean_of_its_samples(seed: int, points: int, size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(seed)
    grid, boxes = torch.randn(2, 3, *size, generator=g, dtype=torch.float64), some_boxes(2, 2, g)
    found = sample_boxes(grid, boxes, points)
    for p in range(2):
        for r in range(2):
            x1, y1, x2, y2 = boxes[p, r].tolist()
            for c in range(3):
                total = 0.0
                for i in range(points):
                    for j in range(points):
                        y, x = y1 + (y2 - y1) * (i + 0.5) / points, x1 + (x2 - x1) * (j + 0.5) / points
                        total += bilinear(grid[p, c].tolist(), y * size[0], x * size[1])
                assert math.isclose(float(found[p, r, c]), total / points**2, abs_tol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_cells_of_a_box_are_those_that_it_overlaps(seed: int, side: int) -> None:
    boxes = some_boxes(1, 3, torch.Generator().manual_seed(seed))[0]
    found = cells_in(boxes, side)
    for r in range(3):
        x1, y1, x2, y2 = boxes[r].tolist()
        for row in range(side):
            for column in range(side):
                width = min(x2, (column + 1) / side) - max(x1, column / side)
                height = min(y2, (row + 1) / side) - max(y1, row / side)
                assert bool(found[r, row * side + column]) == (width > 0 and height > 0)
