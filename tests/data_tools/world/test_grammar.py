"""Captions are true, each of other facts, and enough to find their picture; phrases name what they say they name."""

import json
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.world.ceiling import ceiling, truth_table
from data_tools.world.facts import Facts, Spec, matches
from data_tools.world.grammar import MAX_WORDS, TELLING, captions
from data_tools.world.sample import Settings, make_captions, make_sample, make_scene, read_facts, read_scene
from data_tools.world.scene import Scene, Thing, draw_scene
from data_tools.world.twins import draw_twins
from data_tools.world.words import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    NUMBER_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
    TEXTURE_TAILS,
    TEXTURE_WORDS,
    vocabulary,
)

SEEDS = st.integers(0, 10**9)
RED = Thing("circle", "red", "small", "plain", (0, 0))
BLUE = Thing("circle", "blue", "small", "plain", (0, 2))
STAR = Thing("star", "red", "large", "striped", (2, 0))
SCENE = Scene("black", (RED, BLUE, STAR))


def read_words(text: str) -> Spec:
    """The description that a noun phrase gives, read word by word: the grammar backwards."""
    meanings = {w: ("shape", s) for s, forms in SHAPE_WORDS.items() if s for form in forms for w in form}
    meanings |= {w: ("colour", c) for c, forms in COLOUR_WORDS.items() for w in forms}
    meanings |= {w: ("size", s) for s, forms in SIZE_WORDS.items() for w in forms}
    meanings |= {w: ("texture", t) for t, forms in TEXTURE_WORDS.items() for w in forms}
    meanings |= {w.split()[1]: ("texture", t) for t, forms in TEXTURE_TAILS.items() for w in forms}
    said = [meanings[word] for word in text.split() if word in meanings]
    assert len(dict(said)) == len(said)
    return Spec(**dict(said))


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_phrases_name_the_right_things(seed: int) -> None:
    scene = draw_scene(Random(seed))
    for caption in captions(scene, Random(seed)):
        facts, meant = caption.facts, []
        for start, end, objects in caption.phrases:
            text = caption.text[start:end]
            assert text == text.strip()
            number = NUMBER_WORDS.index(text.split()[0]) if text.split()[0] in NUMBER_WORDS else 1
            assert number == len(objects)
            assert all(read_words(text).fits(scene.things[i]) for i in objects)
            meant.append((objects, tuple(read_words(text).said())))
        wanted: list[tuple[tuple[int, ...], Spec]] = [
            ((i,), spec) for i, spec in zip(facts.objects, facts.specs, strict=True)
        ]
        wanted += [(objects, spec) for objects, (spec, _) in zip(facts.counted, facts.counts, strict=True)]
        said = [(o, tuple((k, v) for k, v in spec.said() if k != "place")) for o, spec in wanted]
        assert sorted(meant) == sorted(said)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_every_caption_is_true_of_its_scene_and_means_one_thing_by_each_description(seed: int) -> None:
    scene = draw_scene(Random(seed))
    for caption in captions(scene, Random(seed)):
        assert matches(scene, caption.facts)
        assert [spec.referents(scene) for spec in caption.facts.specs] == [(i,) for i in caption.facts.objects]
        assert tuple(spec.referents(scene) for spec, _ in caption.facts.counts) == caption.facts.counted


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_five_captions_mention_five_different_sets_of_facts(seed: int) -> None:
    told = captions(draw_scene(Random(seed)), Random(seed))
    assert len({caption.facts.mentioned() for caption in told}) == len({caption.text for caption in told}) == 5
    assert all(4 <= len(caption.text.split()) <= MAX_WORDS for caption in told)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_background_and_total_are_said_where_the_facts_have_them(seed: int) -> None:
    for caption in captions(draw_scene(Random(seed)), Random(seed)):
        words = set(caption.text.split())
        said = [name for name, forms in BACKGROUND_WORDS.items() if words & set(forms)]
        assert said == ([caption.facts.background] if caption.facts.background else [])
        if caption.facts.total is not None and caption.facts.total > 1:
            assert any(noun in caption.text for _, noun in SHAPE_WORDS[None])


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_captions_of_a_twin_tell_it_from_the_other(seed: int) -> None:
    first, second, difference = draw_twins(Random(seed))
    for scene, twin, by in ((first, second, difference), (second, first, difference.turned())):
        told = captions(scene, Random(seed), twin, by)
        assert all(matches(scene, caption.facts) for caption in told)
        assert sum(not matches(twin, caption.facts) for caption in told) >= TELLING


def test_shuffled_things_change_no_verdict() -> None:
    facts = [caption.facts for caption in captions(SCENE, Random(0))]
    for order in permutations(SCENE.things):
        assert all(matches(Scene("black", order), told) for told in facts)


@pytest.mark.parametrize(
    ("facts", "true"),
    [
        (Facts(), True),
        (Facts(specs=(Spec(shape="circle", colour="red"),)), True),
        (Facts(specs=(Spec(shape="star", colour="blue"),)), False),
        (Facts(specs=(Spec(colour="red"), Spec(colour="red"))), True),  # two different things
        (Facts(specs=(Spec(colour="blue"), Spec(colour="blue"))), False),
        (Facts(specs=(Spec(colour="red"), Spec(colour="blue")), relations=((0, "left of", 1),)), True),
        (Facts(specs=(Spec(colour="red"), Spec(colour="blue")), relations=((0, "right of", 1),)), False),
        (Facts(specs=(Spec(shape="star"), Spec(shape="circle")), relations=((0, "below", 1),)), True),
        (Facts(specs=(Spec(shape="circle", place="top left"),)), True),
        (Facts(specs=(Spec(shape="circle", place="bottom left"),)), False),
        (Facts(counts=((Spec(shape="circle"), 2),)), True),
        (Facts(counts=((Spec(colour="red"), 1),)), False),  # exactly so many
        (Facts(total=3, background="black"), True),
        (Facts(total=4), False),
        (Facts(background="white"), False),
    ],
)
def test_the_oracle(facts: Facts, true: bool) -> None:
    assert matches(SCENE, facts) is true


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_facts_survive_json(seed: int) -> None:
    for caption in captions(draw_scene(Random(seed)), Random(seed)):
        assert Facts.from_json(json.loads(json.dumps(caption.facts.to_json()))) == caption.facts


def test_the_vocabulary_is_small_and_wholly_used() -> None:
    said = {
        word
        for i in range(400)
        for caption in make_captions(Settings("train", 400, seed=3), i)
        for word in caption.text.replace(",", " ,").split()
    }
    assert said == set(vocabulary())
    assert len(said) < 150


def test_fast_verdicts_are_the_oracles() -> None:
    scenes = [make_scene(Settings("val", 40), i)[0] for i in range(40)]
    facts = [c.facts for i in range(40) for c in make_captions(Settings("val", 40), i)]
    slow = [[matches(scene, told) for scene in scenes] for told in facts]
    assert truth_table(scenes, facts).tolist() == slow


def test_the_ceiling_by_hand() -> None:
    """Two scenes, of which the first caption of each fits both."""
    other = Scene("black", (RED,))
    both, mine, theirs = Facts(background="black"), Facts(total=3), Facts(total=1)
    found = ceiling([SCENE, other], [[both, mine], [both, theirs]])
    assert found.text_to_image == 75.0  # 1/2, 1, 1/2, 1
    assert found.image_to_text == pytest.approx(66.67)  # two of the three true captions are its own
    assert found.image_to_text_specific == 100.0


@pytest.mark.parametrize("split", ["val", "test"])
def test_retrieval_can_be_nearly_perfect_on_500_pictures(split: str) -> None:
    place = Settings(split, 500)
    found = ceiling(
        [make_scene(place, i)[0] for i in range(500)],
        [[c.facts for c in make_captions(place, i)] for i in range(500)],
    )
    assert found.text_to_image >= 85
    assert found.image_to_text_specific >= 99


def test_the_record_holds_what_the_oracle_needs() -> None:
    place = Settings("test", 20)
    for i in range(20):
        scene, twin, difference = make_scene(place, i)
        _, members = make_sample(place, i)
        truth = json.loads(members["truth.json"])
        again = read_scene(truth)
        assert all(matches(again, facts) for facts in read_facts(json.loads(members["json"])))
        assert (twin is None) == (truth["twin"] is None) == (i % 5 > 1)
        if difference is not None:
            other = i + 1 if i % 5 == 0 else i - 1
            named = {"key": f"test-{other:06d}", "image_id": place.image_id(other)}
            assert truth["twin"] == named | difference.to_json()
            assert make_scene(place, other)[0] == twin
        assert {o["shape"] for o in truth["objects"]} <= set(truth["tags"])
        assert len(truth["objects"]) == len(scene.things)


def test_twins_are_neighbours_and_a_pair_is_never_cut() -> None:
    assert [Settings("train", 5).twin(i) for i in range(5)] == [1, 0, None, None, None]
    assert [Settings("test", 6).twin(i) for i in range(6)] == [1, 0, None, None, None, None]
