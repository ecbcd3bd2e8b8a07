"""Ways of matching (`configs/finetune/`), what the survey printed of each, and what was measured here.

What `vlp systems` and docs/systems.md say of them.

A way of matching is a file with `MATCHING` (its facts), `config()` and `tiny()`; heads on any two encoders have
`parts(stem)`, too.
"""

import csv
import importlib
import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PRINTED = ROOT / "configs" / "survey.csv"
MEASURED = ROOT / "benchmarks" / "results"

HEAD = """
## Ways of matching

Each row is a file of `configs/finetune/`: a choice of pooling, reasoning, similarity and loss on top of any encoders.
Printed: R@1 image to text / text to image of the survey (Cao 2022, tables 1 and 2), on Flickr30K and on COCO's 5,000
test pictures; its figures mix backbones and averages of several models. Measured: `benchmarks/survey.py` on this
project's own stems, all with one budget, so that only the order can be compared.
"""


@dataclass(frozen=True)
class Way:
    """What the table says of one way of matching."""

    name: str
    facts: Any
    objectives: str
    printed: dict[str, str]  # by data set, "image to text / text to image"
    measured: dict[str, str]  # by data of benchmarks/survey.py


def names() -> list[str]:
    """Files of configs/finetune that say what they match by."""
    import configs.finetune

    modules = sorted(m.name for m in pkgutil.iter_modules(configs.finetune.__path__))
    return [name for name in modules if hasattr(importlib.import_module(f"configs.finetune.{name}"), "MATCHING")]


def describe(name: str) -> Way:
    """A way of matching with its figures. Raises ValueError where it names a row that the survey has not."""
    module = importlib.import_module(f"configs.finetune.{name}")
    facts = module.MATCHING
    objectives = ", ".join(lazy.target.__name__ for lazy in module.config().objectives.values())
    found = printed().get(facts.row, {})
    if facts.row and not found:
        raise ValueError(f"configs/finetune/{name}.py names the row {facts.row!r}, which {PRINTED.name} has not")
    return Way(name, facts, objectives, found, {data: runs[name] for data, runs in measured().items() if name in runs})


def printed() -> dict[str, dict[str, str]]:
    """The survey's R@1 by row and data set."""
    found: dict[str, dict[str, str]] = {}
    lines = [line for line in PRINTED.read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines):
        sides = (row["image to text"] or "-", row["text to image"] or "-")
        found.setdefault(row["method"], {})[row["dataset"]] = " / ".join(sides)
    return found


def measured() -> dict[str, dict[str, str]]:
    """R@1 of the newest result of benchmarks/survey.py for each data set, by system."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(MEASURED.glob("*-survey-*.json")):
        record = json.loads(path.read_text())
        found[record["settings"]["data"]] = {name: mean_recalls(runs) for name, runs in record["runs"].items()}
    return found


def mean_recalls(runs: list[dict[str, Any]]) -> str:
    """Mean over the seeds, image to text / text to image."""
    sides = ("image to text R@1", "text to image R@1")
    return " / ".join(f"{sum(run[side] for run in runs) / len(runs):.1f}" for side in sides)


def table(ways: list[Way]) -> str:
    """The second part of docs/systems.md."""
    data = sorted({name for way in ways for name in way.measured})
    columns = ["system", "family", "head and loss", "index", "printed: Flickr30K", "COCO5K"]
    columns += [f"measured: {name}" for name in data]
    lines = [HEAD, f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for way in sorted(ways, key=lambda way: (way.facts.family, way.facts.name)):
        facts = way.facts
        source = f"[{facts.paper}](https://arxiv.org/abs/{facts.paper})" if facts.paper[0].isdigit() else facts.paper
        caveat = f" ({facts.caveat})" if facts.caveat else ""
        cells = [f"[{facts.name}](../configs/finetune/{way.name}.py), {source}", facts.family, facts.shape + caveat]
        cells += [facts.index, *(way.printed.get(place, "") for place in ("Flickr30K", "COCO5K"))]
        lines.append(f"| {' | '.join(cells + [way.measured.get(name, '') for name in data])} |")
    return "\n".join(lines) + "\n"


def line(way: Way) -> str:
    """One row of `vlp systems`."""
    shown = ", ".join(f"{place} {sides}" for place, sides in way.printed.items() if place != "COCO1K")
    own = ", ".join(f"{place} {sides}" for place, sides in way.measured.items())
    return f"{way.name:<16} {way.facts.family:<16} {way.objectives:<44} printed: {shown or '-'}; measured: {own or '-'}"
