"""Picture bytes to tensors: decoding with limits, the training and the evaluation transform."""

import io
import math
import re
import struct
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from vlp.data.config import DataConfig
from vlp.data.randaugment import draw, randaugment
from vlp.types import Box, normalised

try:
    import simplejpeg  # the optional extra `fast`: half as fast again as Pillow, and the same pixels
except ImportError:
    simplejpeg = None

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow runs another program for some of the others
ORIENTATION = 0x0112
SEGMENT = struct.Struct(">BBH")  # of a JPEG: 255, kind, length
SCAN = 0xDA  # a JPEG's segments end where its pixels begin
APPLICATIONS = (0xE1, 0xE2)  # kinds of segments that hold what cameras and editors tell
MAX_PIXELS = 50_000_000  # a picture above this is refused before it is decoded
LOG_RATIO = math.log(4 / 3)  # of width over height of a random crop, at most, either way
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


class Picture:
    """A picture that is not decoded yet: its upright size, from the header, then its pixels.

    Raises ValueError for what is no picture of FORMATS, or has more than MAX_PIXELS pixels.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        plain = _plain_jpeg_size(data)
        self.header = _open(data) if plain is None else None
        width, height = self.header.size if self.header is not None else cast(tuple[int, int], plain)
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, above the limit of {MAX_PIXELS}")
        turned = self.header is not None and _turned(self.header)
        self.height, self.width = (width, height) if turned else (height, width)

    def decode(self, reduction: int = 1) -> Tensor:
        """(3, height, width) uint8 RGB, upright, the first frame of several; sides over `reduction` (1, 2, 4 or 8),
        rounded up, where it is a JPEG. Raises ValueError for a picture that is damaged."""
        if self.header is None:
            try:
                least = {"min_height": -(-self.height // reduction), "min_width": -(-self.width // reduction)}
                return _planes(simplejpeg.decode_jpeg(self.data, **(least if reduction > 1 else {})))
            except ValueError:  # strict with damage: the other decoder decides, so that both take the same pictures
                self.header = _open(self.data)
        header = self.header
        try:
            if reduction > 1:
                header.draft("RGB", (header.width // reduction, header.height // reduction))
            ImageOps.exif_transpose(header, in_place=True)
            return _planes(np.array(_rgb(header)))
        except Exception as error:  # on damaged bytes Pillow's readers raise OSError, SyntaxError, struct.error, ...
            raise ValueError(f"cannot be decoded: {error}") from error


def _planes(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise ValueError(f"no picture: {error}") from error


def _turned(header: Image.Image) -> bool:
    try:
        return int(header.getexif().get(ORIENTATION, 1)) > 4
    except Exception as error:  # a PNG is decoded for this
        raise ValueError(f"cannot be decoded: {error}") from error


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG that the faster decoder, where installed, decodes to the very same pixels."""
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or not _is_upright(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if colours == "YCbCr" else None


def _is_upright(data: bytes) -> bool:
    """Whether no segment in front of a JPEG's pixels says that it is to be turned, or that it is one of several."""
    place = 2
    while place + 4 <= len(data):
        mark, kind, length = SEGMENT.unpack_from(data, place)
        if mark != 0xFF or kind == SCAN:
            break
        if kind == 0xFF:  # padding
            place += 1
            continue
        end = place + 2 + length
        if kind not in APPLICATIONS:
            place = end
            continue
        segment = data[place + 4 : end]
        if segment.startswith(b"Exif\0\0") and (b"\x01\x12" in segment or b"\x12\x01" in segment):
            return False  # it may have an orientation
        if segment.startswith(b"MPF\0") or b"tiff:Orientation" in segment:
            return False
        place = end
    return True


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture  # `convert` would copy
    if picture.mode.startswith("I;16"):  # `convert` would cut off all but the darkest 256 of 65,536 levels
        levels = np.asarray(picture).astype(np.uint16) >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def decode(data: bytes) -> Tensor:
    """Bytes of a picture to (3, height, width) uint8 RGB, upright. Raises ValueError as `Picture` does."""
    return Picture(data).decode()


def looks_whole(kind: str, tail: bytes) -> bool:
    """Whether the last bytes of a picture close it. JPEGs may carry padding behind their end marker."""
    if kind == "jpg":
        return b"\xff\xd9" in tail
    return b"IEND" in tail if kind == "png" else True


def resize(picture: Tensor, size: int, out: Tensor | None = None) -> Tensor:
    """The evaluation transform: the whole picture squeezed to (3, size, size), bicubic, antialiased; into `out` where
    it is given."""
    if picture.shape[1:] == (size, size):
        return picture if out is None else out.copy_(picture)
    if out is None:
        out = torch.empty(size, size, 3, dtype=picture.dtype).permute(2, 0, 1)
    # What `interpolate` calls; it writes pixel by pixel only what it reads so, and would itself copy parts of pictures.
    whole = _batch(picture).contiguous(memory_format=torch.channels_last)
    torch.ops.aten._upsample_bicubic2d_aa.out(whole, [size, size], False, None, None, out=_batch(out))
    return out


def _batch(picture: Tensor) -> Tensor:
    """A batch of one, whose first stride is as long as the picture, whatever its layout."""
    return picture.permute(1, 2, 0)[None].permute(0, 3, 1, 2)


def normalise(picture: Tensor, config: DataConfig) -> Tensor:
    """uint8 to float, minus mean, over std."""
    return normalised(picture, config.mean, config.std)


def augment(
    picture: Picture, config: DataConfig, random: np.random.Generator, out: Tensor | None = None
) -> tuple[Tensor, bool]:
    """The training transform, random resized crop, RandAugment and mirror; (3, image_size, image_size) uint8, `out`
    where it is given, and whether it was mirrored, which captions must follow.

    Raises ValueError for a picture that is damaged.
    """
    pixels = resize(_cut(picture, config, random), config.image_size, out)
    if config.randaugment[0]:
        pixels = randaugment(pixels, *config.randaugment, random)
    mirrored = config.flip and random.random() < 0.5
    if mirrored:
        pixels = pixels.flip(2)
    return (pixels if out is None or pixels is out else out.copy_(pixels)), mirrored


def cut_out(picture: Picture, config: DataConfig, random: np.random.Generator) -> tuple[Tensor, Box]:
    """The part of a picture that `augment` shows with these draws, (3, height, width) uint8, and what is left to do."""
    part = _cut(picture, config, random)
    operations = draw(*config.randaugment, random) if config.randaugment[0] else []
    return part, Box(tuple(operations), config.flip and random.random() < 0.5, config.image_size)


def _cut(picture: Picture, config: DataConfig, random: np.random.Generator) -> Tensor:
    """The box of a random resized crop, decoded as small as it may be."""
    size = config.image_size
    if tuple(config.crop_scale) == (1.0, 1.0):
        return picture.decode(reduction(picture.height, picture.width, size))
    top, left, height, width = _crop((picture.height, picture.width), config.crop_scale, random)
    shrunk = picture.decode(reduction(height, width, size))
    down, across = shrunk.shape[1] / picture.height, shrunk.shape[2] / picture.width
    top, bottom = round(top * down), round((top + height) * down)
    left, right = round(left * across), round((left + width) * across)
    return shrunk[:, top : max(bottom, top + 1), left : max(right, left + 1)]


def reduction(height: int, width: int, size: int) -> int:
    """By how much a JPEG can be shrunk in decoding so that this part of it still has `size` pixels a side."""
    return next(by for by in (8, 4, 2, 1) if by == 1 or min(height, width) >= by * size)


def _crop(size: tuple[int, int], scale: tuple[float, float], random: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random resized crop (Szegedy 2015): an area share from `scale`, sides 3:4 to 4:3.

    torchvision draws its own from the global generator, and slowly.
    """
    full_height, full_width = size
    for _ in range(10):
        share, shape, down, across = random.random(4).tolist()
        area = full_height * full_width * (scale[0] + share * (scale[1] - scale[0]))
        ratio = math.exp(LOG_RATIO * (2 * shape - 1))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            return int(down * (full_height - height + 1)), int(across * (full_width - width + 1)), height, width
    side = min(full_height, full_width)  # no such box fits a very long picture: its middle
    return (full_height - side) // 2, (full_width - side) // 2, side, side


def swap_sides(text: str) -> str:
    """`left` and `right` as words change places, whatever their case."""

    def other(match: re.Match[str]) -> str:
        word = match.group()
        new = "right" if word.lower() == "left" else "left"
        return new.upper() if word.isupper() else new.capitalize() if word[0].isupper() else new

    return SIDES.sub(other, text)
