"""RandAugment (Cubuk 2020) without the operations that would make a caption wrong.

Left out are colour, hue, solarising, posterising and inverting: a caption names colours. The list is ALBEF's (Li 2021).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

LARGEST = 10  # magnitude at which an operation is at its strongest
Operation = Callable[[Tensor, float], Tensor]  # (..., 3, height, width) uint8, strength in [-1, 1] -> the same


@lru_cache(maxsize=1)
def _torchvision() -> Any:
    """Imported at the first operation: it brings torch's compiler along, 160 MB of a process that may not need it."""
    import torchvision.transforms.v2.functional

    return torchvision.transforms.v2.functional


def _affine(picture: Tensor, *, angle: float = 0, shift: tuple[float, float] = (0, 0), shear: float = 0) -> Tensor:
    height, width = picture.shape[-2:]
    moved: Tensor = _torchvision().affine(
        picture,
        angle=angle,
        translate=[round(shift[0] * width), round(shift[1] * height)],
        scale=1.0,
        shear=[shear, 0.0],
        interpolation=_torchvision().InterpolationMode.NEAREST,
        fill=[128.0, 128.0, 128.0],
    )
    return moved


def _sheared_y(picture: Tensor, strength: float) -> Tensor:
    return _affine(picture.transpose(-2, -1), shear=17.0 * strength).transpose(-2, -1)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda picture, strength: picture,
    "autocontrast": lambda picture, strength: _torchvision().autocontrast(picture),
    "equalize": lambda picture, strength: _torchvision().equalize(picture.contiguous()),
    "brightness": lambda picture, strength: _torchvision().adjust_brightness(picture, 1 + 0.9 * strength),
    "sharpness": lambda picture, strength: _torchvision().adjust_sharpness(picture, 1 + 0.9 * strength),
    "shear_x": lambda picture, strength: _affine(picture, shear=17.0 * strength),
    "shear_y": _sheared_y,
    "translate_x": lambda picture, strength: _affine(picture, shift=(0.45 * strength, 0)),
    "translate_y": lambda picture, strength: _affine(picture, shift=(0, 0.45 * strength)),
    "rotate": lambda picture, strength: _affine(picture, angle=30.0 * strength),
}


def draw(operations: int, magnitude: int, random: np.random.Generator) -> list[tuple[int, float]]:
    """`operations` of the list, drawn with replacement, as numbers and strengths: `magnitude` of 10, either way."""
    numbers, signs = random.integers(len(OPERATIONS), size=operations), random.choice([-1, 1], operations)
    return [(int(n), float(sign) * magnitude / LARGEST) for n, sign in zip(numbers, signs, strict=True)]


def randaugment(picture: Tensor, operations: int, magnitude: int, random: np.random.Generator) -> Tensor:
    """The operations that are drawn, one after another. (3, height, width) uint8 in and out."""
    names = list(OPERATIONS)
    for number, strength in draw(operations, magnitude, random):
        picture = OPERATIONS[names[number]](picture, strength)
    return picture
