"""A picture's perceptual hash: alike for a picture and its copies of other size, format or quality.

256 signs of the lowest frequencies of the grey picture's cosine transform, each against their median (Zauner 2010,
"pHash", with more of them). The first 64 are for finding, all for judging. Copies that are mirrored, cropped, rotated
or drawn upon are other pictures to it.
"""

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 32  # the grey picture, pixels
FIRST, BITS = 64, 256
PLAIN = 4.0  # a picture whose grey deviates less from its mean, of 255, says nothing by its frequencies
Words = NDArray[np.uint64]


def fingerprint(data: bytes) -> Words | None:
    """Four words of 64 signs; None for a picture that is all of one grey. Raises ValueError where it is no picture."""
    grey = grey_of(data)
    if grey.std() < PLAIN:
        return None
    waves = (cosines() @ grey @ cosines().T).ravel()[lowest()]
    first, rest = waves[:FIRST], waves[FIRST:]
    signs = np.concatenate([first > np.median(first), rest > np.median(rest)])
    words: Words = np.packbits(signs).view(">u8").astype(np.uint64)
    return words


def grey_of(data: bytes) -> NDArray[np.float64]:
    """(32, 32) grey values of the upright picture. JPEGs are decoded at a reduced scale where that is enough."""
    from PIL import Image, ImageOps

    from vlp.data.images import MAX_PIXELS

    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels, above the limit of {MAX_PIXELS}")
        picture.draft("L", (4 * SIDE, 4 * SIDE))
        upright: Any = ImageOps.exif_transpose(picture)
        small = upright.convert("RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be decoded: {error}") from error
    return np.asarray(small, np.float64)


@cache
def cosines() -> NDArray[np.float64]:
    """(32, 32): the cosine transform of one direction (DCT-II)."""
    places, waves = np.arange(SIDE), np.arange(SIDE)[:, None]
    return np.cos(np.pi * (places + 0.5) * waves / SIDE)


@cache
def lowest() -> NDArray[np.intp]:
    """Places of the 256 lowest frequencies in the flattened transform, without the mean; the lowest first."""
    down, across = np.divmod(np.arange(SIDE * SIDE), SIDE)
    order: NDArray[np.intp] = np.lexsort((across, down + across))[1 : 1 + BITS]
    return order


def as_text(words: Words | None) -> str:
    """Hexadecimal; empty for none."""
    return "" if words is None else "".join(f"{int(word):016x}" for word in words)


def from_texts(texts: list[str]) -> Words:
    """(N, 4) words."""
    bits = b"".join(bytes.fromhex(text) for text in texts)
    words: Words = np.frombuffer(bits, ">u8").astype(np.uint64).reshape(len(texts), BITS // 64)
    return words
