"""Pictures and instance masks of scenes, drawn from signed distances: exact edges without supersampling."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_tools.world.scene import BACKGROUNDS, COLOURS, SIZES, Scene, Thing

Picture = NDArray[np.uint8]
Grid = NDArray[np.float32]


@lru_cache(maxsize=4)
def _pixels(size: int) -> tuple[Grid, Grid]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5
    return y, x


def render(scene: Scene, size: int, random: np.random.Generator) -> tuple[Picture, Picture]:
    """(size, size, 3) picture and (size, size) mask, 0 the background and i + 1 object i."""
    canvas = _background(scene, size) + random.normal(0, 3, (size, size, 1)).astype(np.float32)
    mask = np.zeros((size, size), np.uint8)
    for number, thing in enumerate(scene.things):
        reach = int(np.ceil(SIZES[thing.size] * size)) + 2
        top, left = (max(int(c * size) - reach, 0) for c in (thing.y, thing.x))
        window = (slice(top, top + 2 * reach), slice(left, left + 2 * reach))
        y, x = (g[window] for g in _pixels(size))
        distance = _distance(thing, y - thing.y * size, x - thing.x * size, SIZES[thing.size] * size)
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        paint = np.array(COLOURS[thing.colour], np.float32) * _texture(thing, y, x, size)[..., None]
        canvas[window] = canvas[window] * (1 - cover) + paint * cover
        mask[window][distance < 0] = number + 1
    return np.clip(canvas, 0, 255).astype(np.uint8), mask


def _background(scene: Scene, size: int) -> Grid:
    y, x = _pixels(size)
    if scene.pattern == "checkered":
        light = np.where((x * 8 // size + y * 8 // size) % 2 == 0, 1.25, 0.8)
    elif scene.pattern == "shaded":
        light = 0.5 + y / size
    else:
        light = np.ones_like(x)
    shade: Grid = (light[..., None] * np.array(BACKGROUNDS[scene.background])).astype(np.float32)
    return shade


def _distance(thing: Thing, dy: Grid, dx: Grid, radius: float) -> Grid:
    """Signed distance in pixels, negative inside. All shapes fit a circle of `radius` or its square."""
    ax, ay = np.abs(dx), np.abs(dy)
    shapes = {
        "circle": lambda: np.hypot(dx, dy) - radius,
        "square": lambda: np.maximum(ax, ay) - 0.85 * radius,
        "triangle": lambda: np.maximum(dy - 0.8 * radius, (ax - (dy + radius) * 0.55) * 0.88),
        "cross": lambda: np.minimum(
            np.maximum(ax - 0.32 * radius, ay - radius), np.maximum(ax - radius, ay - 0.32 * radius)
        ),
        "ring": lambda: np.abs(np.hypot(dx, dy) - 0.74 * radius) - 0.25 * radius,
        "diamond": lambda: (ax + ay - radius) * 0.71,
    }
    distance: Grid = shapes[thing.shape]()
    return distance


def _texture(thing: Thing, y: Grid, x: Grid, size: int) -> Grid:
    """Brightness of the paint: whole, in horizontal stripes, or with dark dots."""
    step = size / 16
    if thing.texture == "striped":
        return np.where(y % step < step / 2, 1.0, 0.4).astype(np.float32)
    if thing.texture == "dotted":
        dot = (x % step < step / 2) & (y % step < step / 2)
        return np.where(dot, 0.25, 1.0).astype(np.float32)
    return np.ones_like(x)
