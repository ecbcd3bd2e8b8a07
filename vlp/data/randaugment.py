"""RandAugment (Cubuk 2020) without the operations that would make a caption wrong.

Left out are colour, hue, solarising, posterising and inverting: a caption names colours. The list is ALBEF's (Li 2021).
"""

from collections.abc import Callable

import numpy as np
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms import InterpolationMode

LARGEST = 10  # magnitude at which an operation is at its strongest
Operation = Callable[[Tensor, float], Tensor]  # (3, height, width) uint8, strength in [-1, 1] -> the same


def _affine(picture: Tensor, *, angle: float = 0, shift: tuple[float, float] = (0, 0), shear: float = 0) -> Tensor:
    height, width = picture.shape[1:]
    moved: Tensor = TF.affine(
        picture,
        angle=angle,
        translate=[round(shift[0] * width), round(shift[1] * height)],
        scale=1.0,
        shear=[shear, 0.0],
        interpolation=InterpolationMode.NEAREST,
        fill=[128.0, 128.0, 128.0],
    )
    return moved


def _sheared_y(picture: Tensor, strength: float) -> Tensor:
    return _affine(picture.transpose(1, 2), shear=17.0 * strength).transpose(1, 2)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda picture, strength: picture,
    "autocontrast": lambda picture, strength: TF.autocontrast(picture),
    "equalize": lambda picture, strength: TF.equalize(picture.contiguous()),
    "brightness": lambda picture, strength: TF.adjust_brightness(picture, 1 + 0.9 * strength),
    "sharpness": lambda picture, strength: TF.adjust_sharpness(picture, 1 + 0.9 * strength),
    "shear_x": lambda picture, strength: _affine(picture, shear=17.0 * strength),
    "shear_y": _sheared_y,
    "translate_x": lambda picture, strength: _affine(picture, shift=(0.45 * strength, 0)),
    "translate_y": lambda picture, strength: _affine(picture, shift=(0, 0.45 * strength)),
    "rotate": lambda picture, strength: _affine(picture, angle=30.0 * strength),
}


def randaugment(picture: Tensor, operations: int, magnitude: int, random: np.random.Generator) -> Tensor:
    """`operations` of the list, drawn with replacement, one after another, at `magnitude` of 10, in either direction.

    (3, height, width) uint8 in and out.
    """
    names = list(OPERATIONS)
    for number, sign in zip(random.integers(len(names), size=operations), random.choice([-1, 1], operations)):  # noqa: B905
        picture = OPERATIONS[names[number]](picture, float(sign) * magnitude / LARGEST)
    return picture
