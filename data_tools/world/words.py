"""The words of the grammar: synonyms, function words, and the vocabulary that they make."""

import re
from collections.abc import Iterable
from random import Random
from typing import Any

from data_tools.world.facts import Spec

# (singular, plural); None = a thing whose shape is not said
SHAPE_WORDS: dict[str | None, tuple[tuple[str, str], ...]] = {
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "cross": (("cross", "crosses"), ("plus", "pluses")),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    None: (("object", "objects"), ("thing", "things"), ("shape", "shapes")),
}
COLOUR_WORDS = {
    "red": ("red",),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow",),
    "purple": ("purple", "violet"),
    "orange": ("orange",),
    "cyan": ("cyan", "turquoise"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
TEXTURE_WORDS = {"plain": ("plain", "solid"), "striped": ("striped",), "dotted": ("dotted", "spotted")}
TEXTURE_TAILS = {"striped": ("with stripes",), "dotted": ("with dots", "with spots")}
BACKGROUND_WORDS = {
    "black": ("black",),
    "grey": ("grey", "gray"),
    "white": ("white",),
    "checkered": ("checkered", "chequered"),
    "grainy": ("grainy", "noisy"),
    "shaded": ("shaded", "fading"),
}
BACKGROUND_FRAMES = ("on a {} background", "against a {} background", "before a {} backdrop")
ROW_WORDS = {"top": ("top", "upper"), "bottom": ("bottom", "lower")}
MIDDLE = ("middle", "centre", "center")
RELATION_WORDS = {
    "left of": ("left of", "left of", "to the left of"),
    "right of": ("right of", "right of", "to the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six")
OPENINGS = ("", "", "", "", "", "", "there {be}", "a picture of", "an image of", "we see", "here {be}")
ALL_OPENINGS = ("{} {}", "{} {} in all", "exactly {} {}", "only {} {}")  # every thing is described
SOME_OPENINGS = ("{} {} including", "{} {} , among them", "{} {} with")  # others are there too
BARE = ("a", "an", "and", ",", "there", "is", "are", "here", "in", "the", "corner", "middle", "of", "single", "only")


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    tables = (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS, TEXTURE_WORDS, TEXTURE_TAILS, BACKGROUND_WORDS)
    frames = (BACKGROUND_FRAMES, ROW_WORDS, MIDDLE, RELATION_WORDS, NUMBER_WORDS[1:], OPENINGS, ALL_OPENINGS)
    phrases = _strings((tables, frames, SOME_OPENINGS, BARE, ("left", "right")))
    return sorted({word for phrase in phrases for word in phrase.split() if not word.startswith("{")})


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif value is not None:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def describe(spec: Spec, random: Random, number: int = 1) -> str:
    """A noun phrase: `a large striped red circle`, `two tiny discs with dots`; its place is not part of it."""
    before = [random.choice(SIZE_WORDS[spec.size])] if spec.size else []
    colour = [random.choice(COLOUR_WORDS[spec.colour])] if spec.colour else []
    texture, tail = [], ""
    if spec.texture in TEXTURE_TAILS and random.random() < 0.4:
        tail = " " + random.choice(TEXTURE_TAILS[spec.texture])
    elif spec.texture:
        texture = [random.choice(TEXTURE_WORDS[spec.texture])]
    middle = texture + colour if random.random() < 0.6 else colour + texture
    noun = random.choice(SHAPE_WORDS[spec.shape])[number > 1]
    words = " ".join([*before, *middle, noun]) + tail
    return f"{NUMBER_WORDS[number]} {words}" if number > 1 else f"{article(words)} {words}"


def article(words: str) -> str:
    """`a` or `an`."""
    return "an" if words[0] in "aeio" else "a"


def locate(place: str, random: Random) -> str:
    """`in the top left corner`, `in the middle right`."""
    row, column = place.split()
    if place == "middle middle":
        return f"in the {random.choice(MIDDLE)}"
    words = " ".join(("middle" if row == "middle" else random.choice(ROW_WORDS[row]), column))
    return f"in the {words}" + (" corner" if "middle" not in words and random.random() < 0.6 else "")


def surround(background: str, random: Random) -> str:
    """`on a black background`."""
    return random.choice(BACKGROUND_FRAMES).format(random.choice(BACKGROUND_WORDS[background]))


def nodes(text: str) -> list[tuple[int, int, str]]:
    """The scene graph's nodes in a caption: (start, end, kind) of the words that name shapes, looks and relations."""
    return [(m.start(), m.end(), str(m.lastgroup)) for m in _NODES.finditer(text)]


def _pattern(kind: str, tables: Iterable[Any]) -> str:
    terms = sorted(set(_strings(tables)), key=lambda term: (-len(term), term))
    return f"(?P<{kind}>{'|'.join(map(re.escape, terms))})"


_RELATIONS = _pattern("relation", (RELATION_WORDS,))
_OBJECTS = _pattern("object", (SHAPE_WORDS,))
_LOOKS = _pattern("attribute", (COLOUR_WORDS, SIZE_WORDS, TEXTURE_WORDS, ("stripes", "dots", "spots")))
_NODES = re.compile(rf"\b(?:{_RELATIONS}|{_OBJECTS}|{_LOOKS})\b")
