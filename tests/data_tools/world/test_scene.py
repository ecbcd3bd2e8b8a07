"""What is true of a scene is what its pixels show, and twins differ in one fact."""

from dataclasses import fields
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.world.render import PALETTE, background, boxes, covers, render
from data_tools.world.scene import COLOURS, LOOKS, SHAPES, SIZES, TEXTURES, Scene, Thing, draw_scene, relations
from data_tools.world.twins import Difference, draw_twins

SEEDS = st.integers(0, 10**9)
SIZES_PX = st.sampled_from((48, 64, 96))


def looks(thing: Thing) -> dict[str, str]:
    return {name: getattr(thing, name) for name in LOOKS}


@given(SEEDS, SIZES_PX)
@settings(max_examples=30, deadline=None)
def test_each_thing_has_a_mask_inside_its_cell_and_no_pixel_of_others(seed: int, size: int) -> None:
    scene = draw_scene(Random(seed))
    _, mask = render(scene, size)
    assert set(np.unique(mask)) == set(range(len(scene.things) + 1))
    for number, thing in enumerate(scene.things, 1):
        alone, pixels = render(Scene(scene.background, (thing,), scene.grain), size)[1], mask == number
        assert (pixels == (alone > 0)).all()
        rows, columns = np.nonzero(pixels)
        for line, places in zip(thing.cell, (rows, columns), strict=True):
            assert line * size / 3 - 0.5 <= places.min()
            assert places.max() + 1 <= (line + 1) * size / 3 + 0.5


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_boxes_are_the_bounds_of_the_masks(seed: int) -> None:
    scene = draw_scene(Random(seed))
    _, mask = render(scene, 64)
    for number, box in enumerate(boxes(mask, len(scene.things)), 1):
        rows, columns = np.nonzero(mask == number)
        slow = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (box * 64).tolist() == slow


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_relations_are_what_the_boxes_say(seed: int) -> None:
    scene = draw_scene(Random(seed))
    found = boxes(render(scene, 64)[1], len(scene.things))
    slow = set()
    for i, (left, top, right, bottom) in enumerate(found):
        for j, other in enumerate(found):
            slow |= {(i, "left of", j)} if right <= other[0] else set()
            slow |= {(i, "right of", j)} if left >= other[2] else set()
            slow |= {(i, "above", j)} if bottom <= other[1] else set()
            slow |= {(i, "below", j)} if top >= other[3] else set()
    assert set(relations(scene)) == slow


def portrait(seed: int, **changed: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (P, 3) inside a thing drawn at random with some looks set, and the colour that most of them have."""
    thing = draw_scene(Random(seed), 1).things[0]
    thing = Thing(**{**vars(thing), **changed})
    pixels, mask = render(Scene("grey", (thing,)), 64)
    inside = pixels[mask == 1].astype(int)
    return inside, np.median(inside, axis=0)


@pytest.mark.parametrize("colour", COLOURS)
@given(seed=SEEDS, size=st.sampled_from(SIZES), shape=st.sampled_from(SHAPES))
@settings(max_examples=8, deadline=None)
def test_pixels_inside_the_mask_have_the_colour(colour: str, seed: int, size: str, shape: str) -> None:
    _, seen = portrait(seed, colour=colour, texture="plain", size=size, shape=shape)
    nearest = min(PALETTE, key=lambda name: float(np.abs(seen - PALETTE[name]).sum()))
    assert nearest == colour


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("colour", COLOURS)
def test_textures_can_be_told_from_pixels_alone(colour: str, size: str, shape: str) -> None:
    """Stripes are much darker than the colour, dots much lighter, in a good share of the pixels."""
    shares = {}
    for texture in TEXTURES:
        inside, _ = portrait(5, colour=colour, texture=texture, size=size, shape=shape)
        brightness = inside.sum(1) - sum(PALETTE[colour])
        shares[texture] = ((brightness < -60).mean(), (inside.min(1) > min(PALETTE[colour]) + 50).mean())
    assert shares["striped"][0] > shares["plain"][0] + 0.15
    assert shares["dotted"][1] > shares["plain"][1] + 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_box_stand_upright_and_stay_inside(shape: str) -> None:
    """So that a thing never leaves its cell, and mirroring a picture mirrors nothing but places."""
    places = (np.arange(200) + 0.5) / 100 - 1  # -1 to 1, the box is -0.5 to 0.5
    inside = covers(shape, places[:, None], places[None, :])
    rows, columns = np.nonzero(inside)
    assert max(abs(places[rows]).max(), abs(places[columns]).max()) < 0.5
    assert min(np.ptp(places[rows]), np.ptp(places[columns])) > 0.9
    assert (inside == inside[:, ::-1]).all()
    if shape in ("star", "triangle"):
        assert np.ptp(columns[rows == rows.min() + 2]) < 10 < 50 < np.ptp(columns[rows == rows.max() - 2])


def test_sizes_and_shapes_can_be_told_from_masks() -> None:
    areas = {}
    for shape in SHAPES:
        for size in SIZES:
            thing = Thing(shape, "red", size, "plain", (1, 1))
            areas[shape, size] = int((render(Scene("grey", (thing,)), 64)[1] == 1).sum())
        assert areas[shape, "large"] > 2 * areas[shape, "small"]
    masks = [render(Scene("grey", (Thing(shape, "red", "large", "plain", (1, 1)),)), 64)[1] for shape in SHAPES]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert (a != b).sum() > 40


def test_backgrounds_are_grey_and_can_be_told_apart() -> None:
    from data_tools.world.scene import BACKGROUNDS

    seen = {}
    for name in BACKGROUNDS:
        pixels = background(Scene(name, (), 1234), 64)
        assert (pixels == pixels[..., :1]).all()
        seen[name] = (pixels.mean() // 40, pixels.std() // 15, abs(np.diff(pixels[..., 0], axis=0)).mean() // 5)
    assert len(set(seen.values())) == len(BACKGROUNDS)


def only_difference(a: Scene, b: Scene) -> Difference:
    """What sets two scenes apart, found by comparing everything; fails where it is not one fact."""
    assert (a.background, a.grain, len(a.things)) == (b.background, b.grain, len(b.things))
    changed = [
        (i, f.name)
        for i, (x, y) in enumerate(zip(a.things, b.things, strict=True))
        for f in fields(x)
        if getattr(x, f.name) != getattr(y, f.name)
    ]
    if [name for _, name in changed] == ["cell", "cell"]:
        (i, _), (j, _) = changed
        assert (a.things[i].cell, a.things[j].cell) == (b.things[j].cell, b.things[i].cell)
        mine, theirs = (set(relations(scene)) for scene in (a, b))
        assert {frozenset((r[0], r[2])) for r in mine ^ theirs} == {frozenset((i, j))}
        (here,) = (r[1] for r in mine - theirs if r[0] == i)
        (there,) = (r[1] for r in theirs - mine if r[0] == i)
        return Difference("relation", (i, j), here, there)
    assert set(relations(a)) == set(relations(b))
    ((i, name),) = changed
    return Difference(name, (i,), getattr(a.things[i], name), getattr(b.things[i], name))


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_twins_differ_in_exactly_one_fact_and_the_record_names_it(seed: int) -> None:
    first, second, difference = draw_twins(Random(seed))
    assert only_difference(first, second) == difference
    assert only_difference(second, first) == difference.turned()


def test_twins_differ_in_every_kind_of_fact() -> None:
    kinds = {draw_twins(Random(seed))[2].attribute for seed in range(60)}
    assert kinds == {*LOOKS, "relation"}


@given(SEEDS, st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_no_picture_has_more_things_than_asked_for(seed: int, most: int) -> None:
    first, second, difference = draw_twins(Random(seed), most)
    assert max(len(draw_scene(Random(seed), most=most).things), len(first.things), len(second.things)) <= most
    assert only_difference(first, second) == difference


def test_few_things_still_come_in_every_number_up_to_the_most() -> None:
    assert {len(draw_scene(Random(seed), most=3).things) for seed in range(100)} == {1, 2, 3}


def test_numbers_of_things_and_all_looks_occur() -> None:
    scenes = [draw_scene(Random(seed)) for seed in range(300)]
    assert {len(scene.things) for scene in scenes} == {1, 2, 3, 4, 5, 6}
    seen = {pair for scene in scenes for thing in scene.things for pair in looks(thing).items()}
    assert len(seen) == len(SHAPES) + len(COLOURS) + len(SIZES) + len(TEXTURES)
    assert {thing.place for scene in scenes for thing in scene.things} >= {"top left", "middle middle", "bottom right"}
