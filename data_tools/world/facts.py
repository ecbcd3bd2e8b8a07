"""What a caption says, apart from its words, and whether it is true of a scene.

A caption is a conjunction: there are different things that fit its descriptions and stand in its relations; the
numbers of things that fit its counts are exactly those; the picture has so many things; it has that background.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from math import log2
from typing import Any

from data_tools.world.scene import ATTRIBUTES, BACKGROUNDS, NUMBER_SHARES, Scene, Thing, related

BITS = {name: log2(len(values)) for name, values in ATTRIBUTES.items()}
BITS_BACKGROUND = log2(len(BACKGROUNDS))
BITS_RELATION = 1.5  # each relation holds for about a third of all pairs
BITS_CHOICE = 1.9  # any thing of a picture may fit a description, and there are about 3.5
BITS_COUNT = 1.0  # that a description is repeated, beyond its own bits: groups are made often


@dataclass(frozen=True)
class Spec:
    """A description of a thing. None = not said."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    texture: str | None = None
    place: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether a thing is as described."""
        return all(getattr(thing, name) == value for name, value in self.said())

    def said(self) -> Iterator[tuple[str, str]]:
        """(attribute, value) of what is said."""
        return ((name, value) for name, value in vars(self).items() if value is not None)

    def saying(self, attribute: str, thing: Thing) -> "Spec":
        """The description with one attribute of a thing added."""
        return Spec(**{**vars(self), attribute: getattr(thing, attribute)})

    def bits(self) -> float:
        """Information of the description of one thing drawn at random."""
        return sum(BITS[name] for name, _ in self.said())

    def referents(self, scene: Scene) -> tuple[int, ...]:
        """The things of a scene that fit."""
        return tuple(i for i, thing in enumerate(scene.things) if self.fits(thing))


@dataclass(frozen=True)
class Facts:
    """What one caption says. `objects` and `counted` tell which things of its own scene it means; truth of another
    scene does not hang on them."""

    specs: tuple[Spec, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()  # between specs
    counts: tuple[tuple[Spec, int], ...] = ()
    total: int | None = None
    background: str | None = None
    objects: tuple[int, ...] = ()  # the thing that each spec means
    counted: tuple[tuple[int, ...], ...] = ()  # the things that each count means

    def bits(self) -> float:
        """Roughly, -log2 of the share of scenes that the caption is true of."""
        bits = sum(spec.bits() - BITS_CHOICE for spec in self.specs) + BITS_RELATION * len(self.relations)
        bits += sum(spec.bits() + BITS_COUNT for spec, _ in self.counts)
        bits += BITS_BACKGROUND if self.background else 0.0
        return bits - (log2(NUMBER_SHARES[self.total]) if self.total else 0.0)

    def mentioned(self) -> frozenset[tuple[Any, ...]]:
        """The facts of its own scene that the caption mentions, whatever the words and their order."""
        facts: set[tuple[Any, ...]] = {("total",)} if self.total else set()
        facts |= {("background",)} if self.background else set()
        for i, spec in zip(self.objects, self.specs, strict=True):
            facts |= {("thing", i)} | {("thing", i, name) for name, _ in spec.said()}
        for i, relation, j in self.relations:
            axis = "across" if relation in ("left of", "right of") else "down"
            facts.add(("relation", axis, frozenset((self.objects[i], self.objects[j]))))
        for (spec, _), objects in zip(self.counts, self.counted, strict=True):
            facts.add(("count", objects, frozenset(name for name, _ in spec.said())))
        return frozenset(facts)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready record without what is not said."""
        return {
            "specs": [_record(spec) for spec in self.specs],
            "objects": list(self.objects),
            "relations": [list(r) for r in self.relations],
            "counts": [_record(spec) | {"number": number} for spec, number in self.counts],
            "counted": [list(objects) for objects in self.counted],
            "total": self.total,
            "background": self.background,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Facts":
        """Read `to_json`'s record back."""
        counts = ((dict(c), c["number"]) for c in record["counts"])
        return Facts(
            specs=tuple(Spec(**spec) for spec in record["specs"]),
            relations=tuple((i, relation, j) for i, relation, j in record["relations"]),
            counts=tuple((Spec(**{k: v for k, v in c.items() if k != "number"}), number) for c, number in counts),
            total=record["total"],
            background=record["background"],
            objects=tuple(record["objects"]),
            counted=tuple(tuple(objects) for objects in record["counted"]),
        )


def _record(spec: Spec) -> dict[str, str]:
    return dict(spec.said())


def matches(scene: Scene, facts: Facts) -> bool:
    """The oracle: whether what a caption says is true of a scene."""
    if facts.background not in (None, scene.background) or facts.total not in (None, len(scene.things)):
        return False
    if any(len(spec.referents(scene)) != number for spec, number in facts.counts):
        return False
    if not all(any(spec.fits(thing) for thing in scene.things) for spec in facts.specs):
        return False
    return any(_holds(facts, chosen) for chosen in permutations(scene.things, len(facts.specs)))


def _holds(facts: Facts, chosen: tuple[Thing, ...]) -> bool:
    fits = all(spec.fits(thing) for spec, thing in zip(facts.specs, chosen, strict=True))
    return fits and all(related(chosen[i], relation, chosen[j]) for i, relation, j in facts.relations)
