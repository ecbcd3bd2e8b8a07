"""Picture bytes to tensors: decoding with limits, the training and the evaluation transform."""

import io
import math
import re
from functools import lru_cache

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode

from vlp.data.config import DataConfig

MAX_PIXELS = 50_000_000  # a picture above this is refused before it is decoded
LOG_RATIOS = (math.log(3 / 4), math.log(4 / 3))  # width over height of a random crop
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def decode(data: bytes) -> Tensor:
    """Bytes of a JPEG, PNG or WebP to (3, height, width) uint8 RGB, upright.

    Raises ValueError for what is no picture, is cut off, or has more than MAX_PIXELS pixels.
    """
    try:
        header = Image.open(io.BytesIO(data))
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"no picture: {error}") from error
    if header.width * header.height > MAX_PIXELS:
        raise ValueError(f"{header.width} x {header.height} pixels, above the limit of {MAX_PIXELS}")
    try:
        ImageOps.exif_transpose(header, in_place=True)
        upright = header if header.mode == "RGB" else header.convert("RGB")  # `convert` would copy
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1)


def looks_whole(kind: str, tail: bytes) -> bool:
    """Whether the last bytes of a picture close it. JPEGs may carry padding behind their end marker."""
    if kind == "jpg":
        return b"\xff\xd9" in tail
    return b"IEND" in tail if kind == "png" else True


def resize(picture: Tensor, size: int) -> Tensor:
    """The evaluation transform: the whole picture squeezed to (3, size, size), bicubic, antialiased."""
    if picture.shape[1:] == (size, size):
        return picture
    resized: Tensor = TF.resize(picture, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized


def normalise(picture: Tensor, config: DataConfig) -> Tensor:
    """uint8 to float, minus mean, over std."""
    mean, std = _scales(tuple(config.mean), tuple(config.std))
    # Decoded pictures lie pixel by pixel; plane by plane the arithmetic is twice as fast.
    return picture.contiguous().float().sub_(mean).div_(std)


@lru_cache(maxsize=4)
def _scales(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean).view(3, 1, 1) * 255, torch.tensor(std).view(3, 1, 1) * 255


def augment(picture: Tensor, config: DataConfig, random: np.random.Generator) -> tuple[Tensor, bool]:
    """The training transform, random resized crop and mirror; whether it mirrored, which captions must follow."""
    if config.crop_scale != (1.0, 1.0):
        top, left, height, width = _crop(picture, config.crop_scale, random)
        picture = picture[:, top : top + height, left : left + width]
    picture = resize(picture, config.image_size)
    mirrored = config.flip and random.random() < 0.5
    return (picture.flip(2) if mirrored else picture), mirrored


def _crop(picture: Tensor, scale: tuple[float, float], random: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random resized crop (Szegedy 2015): an area share from `scale`, sides 3:4 to 4:3.

    torchvision draws its own from the global generator, and slowly.
    """
    full_height, full_width = picture.shape[1:]
    for _ in range(10):
        area = full_height * full_width * random.uniform(*scale)
        ratio = np.exp(random.uniform(*LOG_RATIOS))
        width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            top, left = random.integers([full_height - height + 1, full_width - width + 1]).tolist()
            return top, left, height, width
    side = min(full_height, full_width)  # no such box fits a very long picture: its middle
    return (full_height - side) // 2, (full_width - side) // 2, side, side


def swap_sides(text: str) -> str:
    """`left` and `right` as words change places, whatever their case."""

    def other(match: re.Match[str]) -> str:
        word = match.group()
        new = "right" if word.lower() == "left" else "left"
        return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new

    return SIDES.sub(other, text)
