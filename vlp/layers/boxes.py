"""What a map shows inside boxes: bilinear samples (RoIAlign, He 2017, section 3), and which cells a box overlaps."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_boxes(grid: Tensor, boxes: Tensor, points: int) -> Tensor:
    """(P, C, H, W) map and (P, R, 4) boxes (shares of the sides) -> (P, R, C).

    The mean of points x points samples, at the centres of equal parts of each box; a place beyond the outermost
    centres of cells shows the nearest of them. One call for all boxes of all pictures.
    """
    steps = (torch.arange(points, device=boxes.device, dtype=boxes.dtype) + 0.5) / points
    low, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    across = low[..., 0, None] + size[..., 0, None] * steps  # (P, R, points)
    down = low[..., 1, None] + size[..., 1, None] * steps
    places = torch.stack(
        [across[:, :, None, :].expand(-1, -1, points, -1), down[..., None].expand(-1, -1, -1, points)], dim=-1
    )  # (P, R, points, points, 2)
    pictures, number = boxes.shape[:2]
    flat = (2 * places - 1).view(pictures, number, points * points, 2).to(grid.dtype)
    found = F.grid_sample(grid, flat, padding_mode="border", align_corners=False)  # (P, C, R, points^2)
    return found.mean(3).transpose(1, 2)


def cells_in(boxes: Tensor, side: int) -> Tensor:
    """(..., 4) boxes -> (..., side * side) bool: the cells of a square grid, row by row, that a box overlaps."""
    edges = torch.arange(side + 1, device=boxes.device, dtype=boxes.dtype) / side
    across = (boxes[..., 0, None] < edges[1:]) & (boxes[..., 2, None] > edges[:-1])  # (..., side)
    down = (boxes[..., 1, None] < edges[1:]) & (boxes[..., 3, None] > edges[:-1])
    return (down[..., :, None] & across[..., None, :]).flatten(-2)
