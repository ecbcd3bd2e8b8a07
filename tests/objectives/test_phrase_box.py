"""Boxes, their loss and generalised IoU against loops and counting on a fine grid, and which phrase is drawn."""

import pytest
import torch

from vlp.objectives.phrase_box import box_loss, centred, corners, draw_phrases, generalized_iou
from vlp.types import Graph


def counted(one: torch.Tensor, two: torch.Tensor, cells: int = 40) -> float:
    """GIoU of two boxes whose corners lie on a grid, by counting its cells."""
    inside = union = hull = 0
    low, high = torch.minimum(one[:2], two[:2]), torch.maximum(one[2:], two[2:])
    for i in range(cells):
        for j in range(cells):
            x, y = (i + 0.5) / cells, (j + 0.5) / cells
            a, b = (bool(v[0] < x < v[2] and v[1] < y < v[3]) for v in (one, two))
            inside, union = inside + (a and b), union + (a or b)
            hull += bool(low[0] < x < high[0] and low[1] < y < high[1])
    return inside / union - (hull - union) / hull


def test_generalized_iou_is_that_of_the_paper() -> None:
    g = torch.Generator().manual_seed(0)
    for _ in range(8):
        low = torch.randint(0, 30, (2, 2), generator=g)
        size = torch.randint(1, 10, (2, 2), generator=g)
        boxes = torch.cat([low, low + size], 1) / 40
        assert abs(float(generalized_iou(boxes[0], boxes[1])) - counted(boxes[0], boxes[1])) < 1e-5


def test_corners_of_a_box() -> None:
    torch.testing.assert_close(corners(torch.tensor([0.5, 0.4, 0.2, 0.4])), torch.tensor([0.4, 0.2, 0.6, 0.6]))


def test_centres_and_sizes_are_the_inverse_of_corners() -> None:
    boxes = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(centred(corners(boxes)), boxes)


def test_the_loss_is_equation_7_over_the_captions_with_a_phrase() -> None:
    g = torch.Generator().manual_seed(1)
    low = torch.randint(0, 30, (2, 5, 2), generator=g)
    both = torch.cat([low, low + torch.randint(1, 10, (2, 5, 2), generator=g)], 2).double() / 40
    told, wanted, known = centred(both[0]), both[1], torch.tensor([True, False, True, True, False])
    losses, overlaps = [], []
    for row in (0, 2, 3):
        x1, y1, x2, y2 = wanted[row].tolist()
        b = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        distance = sum(abs(one - two) for one, two in zip(told[row].tolist(), b, strict=True))
        overlaps.append(counted(both[0, row], wanted[row]))
        losses.append(distance + 1 - overlaps[-1])
    value, overlap = box_loss(told, wanted, known)
    assert float(value) == pytest.approx(sum(losses) / 3, abs=1e-9)
    assert float(overlap) == pytest.approx(sum(overlaps) / 3, abs=1e-9)


def test_without_a_phrase_the_loss_is_nothing() -> None:
    value, _ = box_loss(torch.rand(2, 4), torch.rand(2, 4), torch.zeros(2, dtype=torch.bool))
    assert float(value) == 0.0


def test_phrases_are_drawn_whole_and_those_without_a_region_never() -> None:
    phrase = torch.tensor([[-1, 0, 0, -1, 1, 1, 2], [-1, 0, 0, -1, -1, -1, -1]])
    region = torch.tensor([[-1, -1, -1, -1, 5, 5, 3], [-1, -1, -1, -1, -1, -1, -1]])
    graph = Graph(torch.zeros_like(phrase), torch.zeros_like(phrase), phrase, region)
    drawn = set()
    for seed in range(30):
        torch.manual_seed(seed)
        row, found, pieces = draw_phrases(graph, 1)
        assert row.tolist() == [0, 1]
        drawn.add((int(found[0]), tuple(pieces[0].nonzero()[:, 0].tolist())))
        assert int(found[1]) == -1
        assert not pieces[1].any()
    assert drawn == {(5, (4, 5)), (3, (6,))}
    row, found, pieces = draw_phrases(graph, 5)
    assert (row.tolist(), found.tolist()) == ([0, 0, 1], [5, 3, -1])
    assert pieces.int().tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1], [0] * 7]
