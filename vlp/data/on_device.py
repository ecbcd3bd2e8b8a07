"""The training transform on the device: what `images.augment` does to one picture, done to a batch.

A reading process decodes and cuts out each picture's box, and draws what is to be done with it from the same numbers;
resizing, RandAugment and mirror follow here. Resizing is two matrix products a picture, with the weights of Pillow's
antialiased bicubic (Keys 1981, a = -0.5), the kernel stretched where it shrinks.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from vlp.data.randaugment import OPERATIONS
from vlp.types import Batch, Boxes


def shown(batches: Iterator[Batch], device: torch.device | str) -> Iterator[Batch]:
    """The batches, those with boxes finished on `device`: pictures are then uint8, as those of other batches are."""
    for batch in batches:
        yield finish(batch, device)


def finish(batch: Batch, device: torch.device | str) -> Batch:
    """A batch whose pictures are cut-out boxes to one whose pictures are as `augment` would have made them."""
    if batch.boxes is None or batch.image is None:
        return batch
    boxes: Boxes = batch.boxes
    pictures = resized(batch.image.to(device, non_blocking=True), boxes.height, boxes.width, boxes.size)
    for turn in range(boxes.operations.shape[1]):
        pictures = _operated(pictures, boxes.operations[:, turn], boxes.strengths[:, turn])
    mirrored = boxes.mirrored.to(device)[:, None, None, None]
    return replace(batch, image=torch.where(mirrored, pictures.flip(3), pictures), boxes=None)


def resized(pictures: Tensor, height: Tensor, width: Tensor, size: int) -> Tensor:
    """(P, 3, H, W) uint8, of which the first `height` (P,) rows and `width` (P,) columns count, to (P, 3, size, size).

    As on the CPU: lines first, rounded to 0 .. 255, then columns. Its weights are 16-bit numbers, so some values differ
    by 1 of 255.
    """
    across = weights(width.to(pictures.device), pictures.shape[3], size)  # (P, size, W)
    down = weights(height.to(pictures.device), pictures.shape[2], size)  # (P, size, H)
    lines = torch.matmul(pictures.float(), across[:, None].transpose(2, 3)).round().clamp(0, 255)
    return torch.matmul(down[:, None], lines).round().clamp(0, 255).to(torch.uint8)


def weights(lengths: Tensor, longest: int, size: int) -> Tensor:
    """(P, size, longest): how much each pixel of a line of `lengths` (P,) pixels gives to each of `size` new ones."""
    step = (lengths.double() / size)[:, None, None]
    stretch = step.clamp(min=1)
    places = torch.arange(longest, device=lengths.device, dtype=torch.float64)[None, None]
    centres = (torch.arange(size, device=lengths.device, dtype=torch.float64) + 0.5)[None, :, None] * step
    kernel = _cubic((places + 0.5 - centres) / stretch) * (places < lengths[:, None, None])
    return (kernel / kernel.sum(2, keepdim=True)).float()


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, equation 15, with a = -1/2."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _operated(pictures: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """Each picture under its operation. Those that share one, and its strength, are done together."""
    names, done = list(OPERATIONS), pictures.clone()
    for number, strength in sorted(set(zip(operations.tolist(), strengths.tolist(), strict=True))):
        rows = ((operations == number) & (strengths == strength)).nonzero()[:, 0].to(pictures.device)
        done[rows] = OPERATIONS[names[number]](pictures[rows], strength)
    return done
