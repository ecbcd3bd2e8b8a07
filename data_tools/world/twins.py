"""Hard negatives by construction: two scenes that differ in one look of one thing, or in one relation of two things."""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from data_tools.world.scene import (
    ATTRIBUTES,
    GRID,
    LOOKS,
    MOST,
    OPPOSITES,
    Scene,
    Thing,
    draw_scene,
    draw_thing,
    related,
)

RELATION_SHARE = 0.35  # of the pairs; the others differ in a look


@dataclass(frozen=True)
class Difference:
    """What a scene has and its twin has not: `attribute` of one thing, or (attribute "relation") of two things."""

    attribute: str
    objects: tuple[int, ...]
    here: str
    twin: str

    def turned(self) -> "Difference":
        """The same difference as the twin sees it."""
        return replace(self, here=self.twin, twin=self.here)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready record."""
        return {
            "attribute": self.attribute,
            "objects": list(self.objects),
            "here": self.here,
            "twin": self.twin,
        }


def draw_twins(random: Random, most: int = MOST) -> tuple[Scene, Scene, Difference]:
    """Two scenes of at most so many things, and what sets the first apart from the second."""
    by_relation = random.random() < RELATION_SHARE and most > 1
    return relation_twins(random, most) if by_relation else look_twins(random, most)


def look_twins(random: Random, most: int = MOST) -> tuple[Scene, Scene, Difference]:
    """One thing has another shape, colour, size or texture."""
    scene = draw_scene(random, most=most)
    i, attribute = random.randrange(len(scene.things)), random.choice(LOOKS)
    here: str = getattr(scene.things[i], attribute)
    other = random.choice([value for value in ATTRIBUTES[attribute] if value != here])
    changed = Thing(**{**vars(scene.things[i]), attribute: other})
    things = (*scene.things[:i], changed, *scene.things[i + 1 :])
    return scene, replace(scene, things=things), Difference(attribute, (i,), here, other)


def relation_twins(random: Random, most: int = MOST) -> tuple[Scene, Scene, Difference]:
    """Two things of one row (or column) change places; every other thing is on the same side of both, so that no
    relation but that of the two changes."""
    axis, across = random.choice(((0, 1), (1, 0)))
    first, second, rest = random.choice(((0, 1, 2), (1, 2, 0)))
    line, others = random.randrange(GRID), random.sample(range(GRID), random.randint(0, min(most, 4) - 2))
    cells = [_cell(axis, first, line), _cell(axis, second, line), *(_cell(axis, rest, other) for other in others)]
    a, b, *more = (draw_thing(random, cell) for cell in cells)
    while (a.shape, a.colour) == (b.shape, b.colour):
        b = draw_thing(random, b.cell)
    scene = replace(draw_scene(random, 1), things=(a, b, *more))
    swapped = (replace(a, cell=b.cell), replace(b, cell=a.cell), *more)
    here = next(relation for relation in OPPOSITES if related(a, relation, b))
    assert a.cell[across] == b.cell[across]
    return scene, replace(scene, things=swapped), Difference("relation", (0, 1), here, OPPOSITES[here])


def _cell(axis: int, along: int, across: int) -> tuple[int, int]:
    return (along, across) if axis == 0 else (across, along)
