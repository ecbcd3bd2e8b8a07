"""Picture number i of a split as the members of a shard: a pure function of the split's settings and i."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from data_tools.world.facts import Facts
from data_tools.world.grammar import CAPTIONS, Caption, captions
from data_tools.world.regions import regions
from data_tools.world.render import boxes, encode, render
from data_tools.world.scene import LOOKS, MOST, SHAPES, Scene, Thing, draw_scene, relations
from data_tools.world.twins import Difference, draw_twins

SPLITS = ("train", "val", "test")
TWIN_PERIOD = {"train": 4, "val": 5, "test": 5}  # of every so many pictures the first two are twins


@dataclass(frozen=True)
class Settings:
    """All that the bytes of a split hang on."""

    split: str
    pictures: int
    size: int = 64
    seed: int = 0
    regions: bool = True
    things: int = MOST  # in a picture, at most
    version: int = 4  # raised when the same settings begin to give other bytes

    def image_id(self, index: int) -> int:
        """A number that no picture of another split has, whatever the sizes of the splits."""
        return index * len(SPLITS) + SPLITS.index(self.split)

    def key(self, index: int) -> str:
        """Name of a picture in its shard."""
        return f"{self.split}-{index:06d}"

    def twin(self, index: int) -> int | None:
        """Number of the picture's twin."""
        place = index % TWIN_PERIOD[self.split]
        if place > 1 or index - place + 1 >= self.pictures:
            return None
        return index + 1 - 2 * place


def make_sample(settings: Settings, index: int) -> tuple[str, dict[str, bytes]]:
    """Key and members (suffix -> bytes) of one picture."""
    scene, _, difference = make_scene(settings, index)
    pixels, mask = render(scene, settings.size)
    true_boxes = boxes(mask, len(scene.things))
    image_id, key = settings.image_id(index), settings.key(index)
    told = enumerate(make_captions(settings, index))
    sentences = [{"id": image_id * CAPTIONS + i} | caption.to_json() for i, caption in told]
    truth = describe(scene, true_boxes.round(5).tolist())
    if difference is not None:
        other = settings.twin(index)
        assert other is not None
        truth["twin"] = {"key": settings.key(other), "image_id": settings.image_id(other)} | difference.to_json()
    record = {"image_id": image_id, "filename": f"{key}.png", "tags": truth["tags"], "captions": sentences}
    members = {
        "png": encode(pixels),
        "json": dump(record),
        "truth.json": dump(truth),
        "masks.png": encode(mask),
    }
    return key, members | ({"regions.safetensors": regions(scene, true_boxes)} if settings.regions else {})


def make_scene(settings: Settings, index: int) -> tuple[Scene, Scene | None, Difference | None]:
    """Scene of a picture; where it has a twin, the twin's scene and the difference as this picture sees it."""
    twin = settings.twin(index)
    random = Random(f"world {settings.seed} {settings.split} scene {index if twin is None else min(index, twin)}")
    if twin is None:
        return draw_scene(random, most=settings.things), None, None
    first, second, difference = draw_twins(random, settings.things)
    return (first, second, difference) if index < twin else (second, first, difference.turned())


def make_captions(settings: Settings, index: int) -> list[Caption]:
    """The five captions of a picture."""
    scene, twin, difference = make_scene(settings, index)
    return captions(scene, Random(f"world {settings.seed} {settings.split} captions {index}"), twin, difference)


def describe(scene: Scene, true_boxes: list[list[float]]) -> dict[str, Any]:
    """The scene graph and what detectors and taggers would be scored against. Class ids number the shapes."""
    objects = [
        {name: getattr(thing, name) for name in LOOKS}
        | {"place": thing.place, "cell": list(thing.cell), "class_id": SHAPES.index(thing.shape), "box": box}
        for thing, box in zip(scene.things, true_boxes, strict=True)
    ]
    tags = sorted({scene.background} | {getattr(thing, name) for thing in scene.things for name in LOOKS})
    return {
        "background": scene.background,
        "objects": objects,
        "relations": [list(relation) for relation in relations(scene)],
        "tags": tags,
        "twin": None,
    }


def read_scene(truth: dict[str, Any]) -> Scene:
    """The scene that a `truth.json` describes, without nuisance: enough for the oracle."""
    things = (
        Thing(o["shape"], o["colour"], o["size"], o["texture"], (o["cell"][0], o["cell"][1])) for o in truth["objects"]
    )
    return Scene(truth["background"], tuple(things))


def read_facts(record: dict[str, Any]) -> list[Facts]:
    """What the captions of a sample's json say."""
    return [Facts.from_json(caption["facts"]) for caption in record["captions"]]


def dump(record: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(record, separators=(",", ":")).encode()
