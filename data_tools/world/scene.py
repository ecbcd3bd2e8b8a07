"""What a picture of the synthetic world shows: a few things in a loose grid of three by three, on a background.

A scene holds everything that the picture depends on, nuisance included (where in its cell a thing lies, its tint, the
phase of its pattern, the seed of the grain), so that changing one field gives a picture that differs in one fact.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("black", "grey", "white", "checkered", "grainy", "shaded")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "middle", "right")
PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES, "place": PLACES}
LOOKS = ("shape", "colour", "size", "texture")
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

GRID = 3
MOST = 6  # things in a picture
NUMBER_SHARES = {1: 0.07, 2: 0.2, 3: 0.25, 4: 0.22, 5: 0.14, 6: 0.12}  # how often a picture has so many things
DIAMETERS = {"small": (0.165, 0.195), "large": (0.285, 0.315)}  # shares of the picture's side
MAX_PLAY = 0.04  # how far a thing may lie from the middle of its cell; less than half of any diameter
GROUP_SHARE = 0.4  # how often some things of a picture share shape and colour, so that there is something to count


@dataclass(frozen=True)
class Thing:
    """One object: four looks and a place that captions speak of, and nuisance that they do not."""

    shape: str
    colour: str
    size: str
    texture: str
    cell: tuple[int, int]  # row, column
    shift: tuple[float, float] = (0.0, 0.0)  # share of the play that its cell leaves, down and right, -1 to 1
    growth: float = 0.5  # 0 to 1: smallest to largest of its size
    phase: float = 0.0  # 0 to 1: where its stripes or dots begin
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)  # added to red, green and blue

    @property
    def place(self) -> str:
        """Its cell in words, `top left` to `bottom right`."""
        return f"{ROWS[self.cell[0]]} {COLUMNS[self.cell[1]]}"

    @property
    def diameter(self) -> float:
        """Side of its box as a share of the picture's side."""
        low, high = DIAMETERS[self.size]
        return low + (high - low) * self.growth

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x) as shares. The whole thing lies in its cell, so boxes of different columns never share an x."""
        play = min(MAX_PLAY, (1 / GRID - self.diameter) / 2)
        y, x = ((line + 0.5) / GRID + shift * play for line, shift in zip(self.cell, self.shift, strict=True))
        return y, x


@dataclass(frozen=True)
class Scene:
    """A background and 1 to 6 things, each in a cell of its own. `grain` seeds the noise of pixels and regions."""

    background: str
    things: tuple[Thing, ...]
    grain: int = 0


def related(a: Thing, relation: str, b: Thing) -> bool:
    """Whether a stands in a relation to b: wholly left of, right of, above or below it."""
    axis = 1 if relation in ("left of", "right of") else 0
    before = relation in ("left of", "above")
    return a.cell[axis] < b.cell[axis] if before else a.cell[axis] > b.cell[axis]


def relations(scene: Scene) -> Iterator[tuple[int, str, int]]:
    """Every relation that holds: (thing, relation, thing)."""
    for i, a in enumerate(scene.things):
        for j, b in enumerate(scene.things):
            yield from ((i, relation, j) for relation in OPPOSITES if related(a, relation, b))


def draw_scene(random: Random, number: int | None = None, most: int = MOST) -> Scene:
    """A scene drawn at random, with `number` things where that is given, else 1 to `most`."""
    if number is None:
        shares = {things: share for things, share in NUMBER_SHARES.items() if things <= most}
        number = random.choices(list(shares), list(shares.values()))[0]
    cells = random.sample([(row, column) for row in range(GRID) for column in range(GRID)], number)
    things = [draw_thing(random, cell) for cell in cells]
    if number > 1 and random.random() < GROUP_SHARE:
        for i in range(1, random.randint(2, min(4, number))):
            things[i] = replace(things[i], shape=things[0].shape, colour=things[0].colour)
    random.shuffle(things)
    return Scene(random.choice(BACKGROUNDS), tuple(things), random.getrandbits(32))


def draw_thing(random: Random, cell: tuple[int, int]) -> Thing:
    """A thing with looks and nuisance drawn at random."""
    return Thing(
        shape=random.choice(SHAPES),
        colour=random.choice(COLOURS),
        size=random.choice(SIZES),
        texture=random.choice(TEXTURES),
        cell=cell,
        shift=(random.uniform(-1, 1), random.uniform(-1, 1)),
        growth=random.random(),
        phase=random.random(),
        tint=(random.uniform(-12, 12), random.uniform(-12, 12), random.uniform(-12, 12)),
    )
