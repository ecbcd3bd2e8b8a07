"""A scene as pixels: antialiased shapes with a texture, and the mask of each."""

import io
from functools import cache
from math import cos, pi, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_tools.world.scene import Scene, Thing

Pixels = NDArray[np.floating[Any]]

PALETTE = {
    "red": (214, 38, 38),
    "green": (40, 160, 56),
    "blue": (44, 72, 226),
    "yellow": (240, 214, 36),
    "purple": (150, 50, 186),
    "orange": (246, 134, 22),
    "cyan": (62, 206, 222),
}
SAMPLES = 3  # supersampling in each direction
STRIPE = 0.072  # period of stripes and dots, as a share of the picture's side
DARK, LIGHT = 0.3, 0.75  # stripes keep this share of the colour; dots go this far to white


def render(scene: Scene, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (size, size, 3) and mask (size, size): 0 = background, i = thing number i, counted from 1."""
    pixels = background(scene, size)
    mask = np.zeros((size, size), np.uint8)
    for number, thing in enumerate(scene.things, 1):
        _draw(thing, size, pixels, mask, number)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8), mask


def background(scene: Scene, size: int) -> Pixels:
    """(size, size, 3) in shades of grey, so that no background has the colour of a thing."""
    level = (scene.grain % 21) - 10.0  # nuisance: a little brighter or darker
    y, x = _grid(size)
    if scene.background == "checkered":
        grey = np.where((y // 8 + x // 8) % 2 == 0, 78.0, 132.0)
    elif scene.background == "grainy":
        coarse = np.random.default_rng(scene.grain).integers(70, 170, (32, 32))
        grey = coarse[(y // 2).astype(int), (x // 2).astype(int)].astype(np.float64)
    elif scene.background == "shaded":
        grey = 30.0 + 190.0 * y / 63
    else:
        grey = np.full((size, size), {"black": 16.0, "grey": 118.0, "white": 236.0}[scene.background])
    return np.repeat((grey + level)[..., None], 3, axis=2).astype(np.float32)


@cache
def _grid(size: int) -> tuple[Pixels, Pixels]:
    """Down and right of every pixel, in 64ths of the side."""
    y, x = np.mgrid[0:size, 0:size] * (64 / size)
    return y, x


def _draw(thing: Thing, size: int, pixels: Pixels, mask: NDArray[np.uint8], number: int) -> None:
    (y, x), diameter = (size * c for c in thing.centre), size * thing.diameter
    top, left = int(y - diameter / 2), int(x - diameter / 2)
    side = int(diameter) + 2
    height, width = min(side, size - top), min(side, size - left)
    rows = (top + (np.arange(height * SAMPLES, dtype=np.float32) + 0.5) / SAMPLES)[:, None]
    columns = (left + (np.arange(width * SAMPLES, dtype=np.float32) + 0.5) / SAMPLES)[None, :]
    inside = covers(thing.shape, (rows - y) / diameter, (columns - x) / diameter)
    cover = _shrink(inside)[..., None]
    colour = np.array(PALETTE[thing.colour], np.float32) + np.array(thing.tint, np.float32)
    window = pixels[top : top + height, left : left + width]
    if thing.texture == "plain":
        window += cover * (colour - window)
    else:
        marked = _shrink(inside & _pattern(thing, rows / size, columns / size))[..., None]
        second = colour * DARK if thing.texture == "striped" else colour + LIGHT * (255 - colour)
        window[:] = window * (1 - cover) + colour * (cover - marked) + second * marked
    mask[top : top + height, left : left + width][cover[..., 0] >= 0.5] = number


def _shrink(fine: NDArray[np.bool_]) -> Pixels:
    height, width = (n // SAMPLES for n in fine.shape)
    return np.asarray(fine.reshape(height, SAMPLES, width, SAMPLES).mean((1, 3), dtype=np.float32))


def covers(shape: str, v: Pixels, u: Pixels) -> NDArray[np.bool_]:
    """Which points (v down, u right, in diameters from the centre) a shape covers."""
    if shape == "circle":
        return np.asarray(u * u + v * v <= 0.25)
    if shape == "ring":
        squares = u * u + v * v
        return np.asarray((squares <= 0.25) & (squares >= 0.07))
    if shape == "square":
        return np.asarray((abs(u) <= 0.46) & (abs(v) <= 0.46))
    if shape == "cross":
        return np.asarray(((abs(u) <= 0.16) & (abs(v) <= 0.5)) | ((abs(v) <= 0.16) & (abs(u) <= 0.5)))
    if shape == "triangle":
        return np.asarray((2 * abs(u) <= v + 0.5) & (v <= 0.47))
    assert shape == "star", shape
    # A pentagram is where at least four of its five edges' half planes meet.
    planes = [(normal[0] * u + normal[1] * (v - 0.05)) <= 0.162 for normal in _star_normals()]
    return np.asarray(sum(plane.astype(np.uint8) for plane in planes) >= 4)


@cache
def _star_normals() -> tuple[tuple[float, float], ...]:
    return tuple((cos(2 * pi * k / 5 - pi / 2), sin(2 * pi * k / 5 - pi / 2)) for k in range(5))


def _pattern(thing: Thing, y: Pixels, x: Pixels) -> NDArray[np.bool_]:
    if thing.texture == "striped":
        return np.asarray(((x + y) / (STRIPE * 1.25) + thing.phase) % 1 < 0.5)
    rows, columns = (y / STRIPE + thing.phase) % 1 - 0.5, (x / STRIPE + thing.phase) % 1 - 0.5
    return np.asarray(rows * rows + columns * columns <= 0.09)


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """PNG: at these sizes it is smaller and decodes faster than JPEG of high quality, and keeps every pixel."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def boxes(mask: NDArray[np.uint8], number: int) -> Pixels:
    """Tight boxes (number, 4) of things 1 to `number`: x1 y1 x2 y2 as shares of the side."""
    own = mask[None] == np.arange(1, number + 1)[:, None, None]
    rows, columns = own.any(2), own.any(1)
    size = mask.shape[0]
    edges = [columns.argmax(1), rows.argmax(1), size - columns[:, ::-1].argmax(1), size - rows[:, ::-1].argmax(1)]
    return np.asarray(np.stack(edges, 1) / size, np.float32)
