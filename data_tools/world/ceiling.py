"""How well retrieval can do at all: what the oracle retrieves that knows every scene and what every caption says."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_tools.world.facts import Facts, Spec, matches
from data_tools.world.scene import Scene


@dataclass(frozen=True)
class Ceiling:
    """Expected R@1 of the oracle, ties drawn by lot, in percent."""

    pictures: int
    text_to_image: float
    image_to_text: float  # every true caption is as good as any other
    image_to_text_specific: float  # of the true captions the one that is true of the fewest pictures comes first


def ceiling(scenes: list[Scene], facts: list[list[Facts]]) -> Ceiling:
    """The ceiling of retrieval among scenes and their captions; `facts[i]` are of the captions of scene i."""
    flat = [told for of_scene in facts for told in of_scene]
    owner = np.repeat(np.arange(len(scenes)), [len(of_scene) for of_scene in facts])
    true = truth_table(scenes, flat)
    assert true[np.arange(len(flat)), owner].all(), "a caption is false of its own scene"
    fits = true.sum(1)
    specific = true & (fits[:, None] == np.where(true, fits[:, None], len(scenes) + 1).min(0))
    return Ceiling(
        pictures=len(scenes),
        text_to_image=round(100 * float((1 / fits).mean()), 2),
        image_to_text=_own_share(true, owner),
        image_to_text_specific=_own_share(specific, owner),
    )


def _own_share(chosen: NDArray[np.bool_], owner: NDArray[np.int64]) -> float:
    """Mean share, over pictures, of the chosen captions that are the picture's own."""
    own = chosen & (owner[:, None] == np.arange(chosen.shape[1]))
    return round(100 * float((own.sum(0) / chosen.sum(0)).mean()), 2)


def truth_table(scenes: list[Scene], facts: list[Facts]) -> NDArray[np.bool_]:
    """(captions, scenes): the oracle's verdicts. What can be told apart in arrays is; the rest is asked one by one."""
    table = _Table(scenes)
    out = np.zeros((len(facts), len(scenes)), np.bool_)
    for row, told in zip(out, facts, strict=True):
        for i in np.flatnonzero(table.candidates(told)):
            row[i] = matches(scenes[i], told)
    return out


class _Table:
    """Attributes of all things of all scenes as arrays."""

    def __init__(self, scenes: list[Scene]) -> None:
        most = max(len(scene.things) for scene in scenes)
        self.backgrounds = np.array([scene.background for scene in scenes])
        self.totals = np.array([len(scene.things) for scene in scenes])
        self.columns = {
            name: np.array([[getattr(t, name) for t in s.things] + [""] * (most - len(s.things)) for s in scenes])
            for name in ("shape", "colour", "size", "texture", "place")
        }
        self.present = np.arange(most) < self.totals[:, None]
        self.equal: dict[tuple[str, str], NDArray[np.bool_]] = {}

    def candidates(self, facts: Facts) -> NDArray[np.bool_]:
        """Scenes that a caption may be true of, as far as each description goes by itself."""
        keep = np.ones(len(self.totals), np.bool_)
        if facts.background is not None:
            keep &= self.backgrounds == facts.background
        if facts.total is not None:
            keep &= self.totals == facts.total
        for spec, number in facts.counts:
            keep &= self._fits(spec).sum(1) == number
        for spec in facts.specs:
            keep &= self._fits(spec).any(1)
        return keep

    def _fits(self, spec: Spec) -> NDArray[np.bool_]:
        fits = self.present
        for name, value in spec.said():
            if (name, value) not in self.equal:
                self.equal[name, value] = self.columns[name] == value
            fits = fits & self.equal[name, value]
        return fits
