"""Captions: which facts to mention, enough of them to tell a picture from others, and the sentence that says them."""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from data_tools.world import words
from data_tools.world.facts import Facts, Spec, matches
from data_tools.world.scene import LOOKS, OPPOSITES, Scene, related
from data_tools.world.twins import Difference

CAPTIONS = 5
TELLING = 4  # of the five captions of a twin, those that are false of the other twin
BITS = {1: 10.5, 2: 18.0}  # a caption of so many things says at least so much: one picture in 2 ** BITS fits it
BITS_OF_MANY = 22.0
BITS_FOR_COUNTS = 5.0  # a caption that counts may say so much less
MAX_WORDS = 30
MAX_TRIES = 2000


@dataclass
class Caption:
    """A sentence, what it says, and which characters name which things."""

    text: str
    facts: Facts
    phrases: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)  # start, end, things

    def to_json(self) -> dict[str, Any]:
        """JSON-ready record; `span` are characters [start, end) of `text`."""
        phrases = [{"span": [start, end], "objects": list(objects)} for start, end, objects in self.phrases]
        nodes = [{"span": [start, end], "kind": kind} for start, end, kind in words.nodes(self.text)]
        return {"text": self.text, "phrases": phrases, "nodes": nodes, "facts": self.facts.to_json()}


def captions(scene: Scene, random: Random, twin: Scene | None = None, by: Difference | None = None) -> list[Caption]:
    """Five captions, each mentioning another set of facts. With a twin, four of them mention the difference."""
    made: list[Caption] = []
    mentioned: set[frozenset[tuple[Any, ...]]] = set()
    for _ in range(MAX_TRIES):
        telling = twin is not None and len(made) < TELLING
        facts = draw_facts(scene, random, by if telling else None)
        if facts.bits() < bits_of(scene, bool(facts.counts)) or facts.mentioned() in mentioned:
            continue
        if telling and twin is not None and matches(twin, facts):
            continue
        caption = realise(facts, random)
        if len(caption.text.split()) > MAX_WORDS:
            continue
        made.append(caption)
        mentioned.add(facts.mentioned())
        if len(made) == CAPTIONS:
            random.shuffle(made)
            return made
    raise AssertionError(f"the grammar finds no {CAPTIONS} captions for {scene}")


def bits_of(scene: Scene, counting: bool = False) -> float:
    """What a caption of this scene must say at least: a single thing has less to tell, and numbers say little."""
    return BITS.get(len(scene.things), BITS_OF_MANY) - BITS_FOR_COUNTS * counting


# ---------------------------------------------------------------- what to say


def draw_facts(scene: Scene, random: Random, by: Difference | None = None) -> Facts:
    """Facts of a scene that say enough; `by` is a difference that they should touch."""
    facts = _counted(scene, random) if by is None and random.random() < 0.4 else Facts()
    objects = _choose(scene, random, facts, by)
    specs = tuple(_spec(scene, i, random, by) for i in objects)
    facts = replace(facts, specs=specs, objects=objects)
    facts = replace(facts, relations=_relations(scene, objects, random, by))
    if random.random() < 0.6:
        facts = replace(facts, background=scene.background)
    if random.random() < (0.5 if len(scene.things) == 1 else 0.1):
        facts = replace(facts, total=len(scene.things))
    return _say_enough(facts, scene, random)


def _counted(scene: Scene, random: Random) -> Facts:
    """A count of things that share a description, if the first draw finds any."""
    thing = random.choice(scene.things)
    spec = Spec()
    for name in random.choice((("shape",), ("shape",), ("colour",), ("shape", "colour"), ("shape", "size"))):
        spec = spec.saying(name, thing)
    counted = spec.referents(scene)
    return Facts(counts=((spec, len(counted)),), counted=(counted,)) if len(counted) > 1 else Facts()


def _choose(scene: Scene, random: Random, facts: Facts, by: Difference | None) -> tuple[int, ...]:
    """Which things to describe one by one, the ones of the difference first."""
    first = list(by.objects) if by else []
    taken = {i for objects in facts.counted for i in objects}
    free = [i for i in range(len(scene.things)) if i not in taken and i not in first]
    random.shuffle(free)
    random.shuffle(first)
    number = random.choice((1, 2, 2, 3)) if facts.counts else random.choice((2, 2, 3, 3, 4))
    return tuple([*first, *free][: max(number, len(first))])


def _spec(scene: Scene, i: int, random: Random, by: Difference | None) -> Spec:
    """A description that fits this thing of the scene and no other."""
    thing, spec = scene.things[i], Spec()
    for name, share in (("shape", 0.97), ("colour", 0.97), ("size", 0.4), ("texture", 0.3), ("place", 0.1)):
        if random.random() < share or (by and by.attribute == name and i in by.objects):
            spec = spec.saying(name, thing)
    for name in (*random.sample(LOOKS, len(LOOKS)), "place"):
        if len(spec.referents(scene)) == 1:
            break
        spec = spec.saying(name, thing)
    return spec


def _relations(
    scene: Scene, objects: tuple[int, ...], random: Random, by: Difference | None
) -> tuple[tuple[int, str, int], ...]:
    """Relations of the first thing to the second, and at times to the third."""
    if len(objects) < 2 or (random.random() < 0.4 and (by is None or by.attribute != "relation")):
        return ()
    others = [1, 2] if len(objects) > 2 and random.random() < 0.5 else [1]
    return tuple((0, _relation(scene, objects[0], objects[j], random), j) for j in others)


def _relation(scene: Scene, i: int, j: int, random: Random) -> str:
    return random.choice([r for r in OPPOSITES if related(scene.things[i], r, scene.things[j])])


def _say_enough(facts: Facts, scene: Scene, random: Random) -> Facts:
    """Add details in a random order until the caption tells its picture from others."""
    details = [(k, name) for k, spec in enumerate(facts.specs) for name in vars(spec) if name != "place"]
    details += [(-1, "background"), (-1, "total")]
    random.shuffle(details)
    details += [(k, "place") for k in range(len(facts.specs))]
    for k, name in details:
        if facts.bits() >= bits_of(scene, bool(facts.counts)):
            break
        facts = _add(facts, scene, k, name)
    return facts


def _add(facts: Facts, scene: Scene, k: int, name: str) -> Facts:
    if name == "background":
        return replace(facts, background=scene.background)
    if name == "total":
        return replace(facts, total=len(scene.things))
    spec = facts.specs[k].saying(name, scene.things[facts.objects[k]])
    return replace(facts, specs=(*facts.specs[:k], spec, *facts.specs[k + 1 :]))


# ---------------------------------------------------------------- how to say it


class _Sentence:
    """Text that grows by words, and remembers which of them name things."""

    def __init__(self) -> None:
        self.text = ""
        self.phrases: list[tuple[int, int, tuple[int, ...]]] = []

    def say(self, text: str, objects: tuple[int, ...] = ()) -> None:
        text = text.replace(" ,", ",")
        if not text:
            return
        self.text += "" if not self.text or text.startswith(",") else " "
        start = len(self.text)
        self.text += text
        if objects:
            self.phrases.append((start, len(self.text), objects))


def realise(facts: Facts, random: Random) -> Caption:
    """A sentence that says the facts."""
    sentence = _Sentence()
    surrounding = words.surround(facts.background, random) if facts.background else ""
    first = bool(surrounding) and not facts.total and random.random() < 0.25
    if first:
        sentence.say(f"{surrounding} there {_be(facts)}")
    elif facts.total:
        sentence.say(_opening(facts, random))
    else:
        sentence.say(random.choice(words.OPENINGS).format(be=_be(facts)))
    _items(sentence, facts, random)
    if not first:
        sentence.say(surrounding)
    return Caption(sentence.text, facts, sentence.phrases)


def _be(facts: Facts) -> str:
    return "are" if facts.counts else "is"


def _opening(facts: Facts, random: Random) -> str:
    """How many things there are in all."""
    assert facts.total is not None
    if facts.total == 1:
        return random.choice(("only", "a single thing ,", "a single object ,", "only one object ,"))
    described = len(set(facts.objects).union(*facts.counted))
    frames = words.ALL_OPENINGS if described == facts.total else words.SOME_OPENINGS
    nouns = random.choice(words.SHAPE_WORDS[None])
    frame = random.choice(frames).format(words.NUMBER_WORDS[facts.total], nouns[1])
    return f"{frame} ," if described == facts.total else frame


def _items(sentence: _Sentence, facts: Facts, random: Random) -> None:
    """Counts and single things as a list; a chain of relations comes last, where it cannot be misread."""
    tied = {0} | {j for _, _, j in facts.relations} if facts.relations else set()
    singles = [k for k in range(len(facts.specs)) if k not in tied]
    last = len(facts.counts) + len(singles) + bool(tied) - 1
    for place in range(last + 1):
        if place:
            sentence.say("and" if place == last else ",")
        if place < len(facts.counts):
            spec, number = facts.counts[place]
            sentence.say(words.describe(spec, random, number), facts.counted[place])
        elif place - len(facts.counts) < len(singles):
            _name(sentence, facts, singles[place - len(facts.counts)], random)
        else:
            _chain(sentence, facts, random)


def _chain(sentence: _Sentence, facts: Facts, random: Random) -> None:
    bare = not sentence.text  # only a sentence of its own can have a verb
    _name(sentence, facts, 0, random)
    for place, (_, relation, j) in enumerate(facts.relations):
        link = "and" if place else random.choice(("", "is")) if bare else ""
        sentence.say(f"{link} {random.choice(words.RELATION_WORDS[relation])}".strip())
        _name(sentence, facts, j, random)


def _name(sentence: _Sentence, facts: Facts, k: int, random: Random) -> None:
    spec = facts.specs[k]
    sentence.say(words.describe(spec, random), (facts.objects[k],))
    if spec.place:
        sentence.say(words.locate(spec.place, random))
