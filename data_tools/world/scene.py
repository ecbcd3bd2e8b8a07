"""Scenes of the synthetic world: 1 to 6 objects in a loose 3 x 3 layout on a background, and near twins of them."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 225),
    "yellow": (240, 220, 50),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "white": (250, 250, 250),
}
SIZES = {"small": 0.086, "large": 0.14}  # radius as a share of the picture
TEXTURES = ("solid", "striped", "dotted")
BACKGROUNDS = {"grey": (125, 125, 125), "black": (22, 22, 22), "brown": (105, 75, 55), "teal": (20, 105, 110)}
PATTERNS = ("plain", "checkered", "shaded")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
GRID = 3
JITTER = 0.04
MOST_OBJECTS = 6


@dataclass(frozen=True)
class Thing:
    """One object. `x`, `y`: centre as shares of width and height; `cell`: its place in the layout, row by row."""

    shape: str
    colour: str
    size: str
    texture: str
    cell: int
    x: float
    y: float

    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 as shares of width and height."""
        r = SIZES[self.size]
        return self.x - r, self.y - r, self.x + r, self.y + r

    def class_id(self) -> int:
        """Shape and colour as one number below len(SHAPES) * len(COLOURS)."""
        return SHAPES.index(self.shape) * len(COLOURS) + list(COLOURS).index(self.colour)


@dataclass(frozen=True)
class Scene:
    """What there is to see."""

    background: str
    pattern: str
    things: tuple[Thing, ...]


def draw_scene(random: np.random.Generator, fewest: int = 1) -> Scene:
    """A random scene of `fewest` to 6 objects, two of them never in one cell."""
    count = int(random.integers(fewest, MOST_OBJECTS + 1))
    cells = random.choice(GRID * GRID, count, replace=False)
    things = tuple(_draw_thing(random, int(cell)) for cell in cells)
    return Scene(_pick(random, tuple(BACKGROUNDS)), _pick(random, PATTERNS), things)


def _draw_thing(random: np.random.Generator, cell: int) -> Thing:
    dx, dy = random.uniform(-JITTER, JITTER, 2)
    texture = TEXTURES[int(random.choice(3, p=[0.5, 0.25, 0.25]))]
    return Thing(
        shape=_pick(random, SHAPES),
        colour=_pick(random, tuple(COLOURS)),
        size=_pick(random, tuple(SIZES)),
        texture=texture,
        cell=cell,
        x=(cell % GRID + 0.5) / GRID + dx,
        y=(cell // GRID + 0.5) / GRID + dy,
    )


def _pick(random: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(random.integers(len(options)))]


def relation(a: Thing, b: Thing) -> set[str]:
    """How a lies to b, by their cells: left or right, above or below, both, or none for one cell."""
    (row_a, column_a), (row_b, column_b) = divmod(a.cell, GRID), divmod(b.cell, GRID)
    out = set()
    if column_a != column_b:
        out.add("left" if column_a < column_b else "right")
    if row_a != row_b:
        out.add("above" if row_a < row_b else "below")
    return out


def draw_twin(scene: Scene, random: np.random.Generator) -> tuple[Scene, dict[str, Any]]:
    """A scene that differs in one attribute of one object, or in the places of two, and a record of the difference."""
    things = list(scene.things)
    i = int(random.integers(len(things)))
    if len(things) > 1 and random.random() < 0.4:
        j = (i + 1 + int(random.integers(len(things) - 1))) % len(things)
        a, b = things[i], things[j]
        things[i] = replace(a, cell=b.cell, x=b.x, y=b.y)
        things[j] = replace(b, cell=a.cell, x=a.x, y=a.y)
        same = (a.shape, a.colour, a.size, a.texture) == (b.shape, b.colour, b.size, b.texture)
        if not same:
            return replace(scene, things=tuple(things)), {"kind": "places", "objects": [i, j]}
        things = list(scene.things)
    kind, options = (
        ("shape", SHAPES),
        ("colour", tuple(COLOURS)),
        ("size", tuple(SIZES)),
        ("texture", TEXTURES),
    )[int(random.integers(4))]
    others = tuple(o for o in options if o != getattr(things[i], kind))
    things[i] = replace(things[i], **{kind: _pick(random, others)})
    return replace(scene, things=tuple(things)), {"kind": kind, "objects": [i]}


def truth(scene: Scene) -> dict[str, Any]:
    """Ground truth: objects with attributes, boxes and class ids, the relations between them, and tags."""
    things = scene.things
    return {
        "background": scene.background,
        "pattern": scene.pattern,
        "objects": [asdict(t) | {"box": list(t.box()), "class_id": t.class_id()} for t in things],
        "relations": [
            [i, word, j]
            for i, a in enumerate(things)
            for j, b in enumerate(things)
            if i != j
            for word in sorted(relation(a, b))
        ],
        "tags": [f"{t.colour} {t.shape}" for t in things],
    }
