"""What a system's config says of the system: `SYSTEM = System(...)` in each file of `configs/systems/`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class System:
    """Facts of one published system, for `vlp systems` and docs/systems.md."""

    name: str
    paper: str  # arXiv number
    shape: str  # architecture, in a line
    data: str  # what the published run was trained on, and what the shards must hold
    published: float | None = None  # million parameters of what the paper or its released code trains
    source: str = ""  # where that figure is from
    reason: str = ""  # why there is none, or why this config differs by more than 3 %
    state: str = "trains; not reproduced at published size"


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Facts of one published way of matching, for `vlp systems`, docs/systems.md and `benchmarks/survey.py`."""

    name: str
    paper: str  # arXiv number, or where it appeared
    row: str = ""  # its rows in configs/survey.csv, "" where the survey gives no number
    family: str  # of the survey's second table, widened: global, local, relation-aware, self-adaptive, noise
    shape: str  # head and loss, in a line
    index: str = "no"  # what can search a gallery: inner product, distance, sets of K, no
    caveat: str = ""  # what to know before comparing with the published figure
