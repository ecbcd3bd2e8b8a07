"""What an evaluation found: a record to keep and a table to read."""

from dataclasses import asdict, dataclass, field
from typing import Any

from vlp.retrieval.bootstrap import Intervals
from vlp.retrieval.ranks import SIDES, Metrics

SHORT = dict(zip(SIDES, ("TR", "IR"), strict=True))
HEADER = ["", "TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10", "rsum", "medr", "meanr", "ties"]


@dataclass
class Report:
    """Recalls in per cent; TR = image to text, IR = text to image. Absent stages are None."""

    data: str
    images: int
    texts: int
    truncated: int = 0  # captions that were cut to the model's length
    first_by: str | None = None  # the similarity that ranked everything
    second_by: str | None = None  # ... and the one that ordered candidates anew, or scored every pair
    first: Metrics | None = None
    banked: Metrics | None = None
    reranked: Metrics | None = None
    full: Metrics | None = None
    ceiling: dict[str, float] | None = None
    k: int | None = None
    mix: float = 0.0
    pairs: int = 0
    intervals: dict[str, Intervals] = field(default_factory=dict)  # 95 %, by stage
    gains: dict[str, Intervals] = field(default_factory=dict)  # 95 %, of a stage over the one before, on the same draws
    fold: int | None = None  # pictures a fold
    folds: dict[str, Metrics] = field(default_factory=dict)  # means over folds, and spreads, by stage
    judged: dict[str, dict[str, Metrics]] = field(default_factory=dict)  # by set of judgments and stage
    within: dict[str, Metrics] = field(default_factory=dict)  # captions among captions, pictures among pictures
    correlations: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # with ratings, x 100, by task
    labelled: int | None = None  # pictures with labels of classes
    plausible: dict[str, Metrics] = field(default_factory=dict)  # among these, by stage
    encode_seconds: float = 0.0
    score_seconds: float = 0.0

    def best(self) -> Metrics:
        """The metrics of the last stage that ran."""
        return self.stages()[-1][2]

    def stages(self) -> list[tuple[str, str, Metrics]]:
        """Key, title and metrics of each stage that ran."""
        titles = {
            "first": "first stage",
            "banked": "... and bank",
            "reranked": f"re-ranked k={self.k}",
            "full": f"every pair by {self.second_by or 'itm'}",
        }
        return [(key, title, getattr(self, key)) for key, title in titles.items() if getattr(self, key) is not None]

    def to_json(self) -> dict[str, Any]:
        """The record without what did not run."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}

    def table(self) -> str:
        """One row a stage, aligned for a terminal, and what there is to know beside it."""
        lines = [HEADER, *(_row(title, metrics) for _, title, metrics in self.stages())]
        lines += [
            _row(f"{title}, folds of {self.fold}", self.folds[key])
            for key, title, _ in self.stages()
            if key in self.folds
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
        cells = [zip(line, widths, strict=True) for line in lines]
        table = ["  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(row)) for row in cells]
        return "\n".join([*table, *self.remarks()])

    def remarks(self) -> list[str]:
        """The lines below the table."""
        lines = [
            f"{self.images} pictures, {self.texts} captions of {self.data}; TR = image to text, IR = text to image"
        ]
        if self.truncated:
            lines.append(f"{self.truncated} captions are longer than data.max_length and were cut")
        if self.ceiling is not None:
            ceilings = " / ".join(f"{self.ceiling[side]:.1f}" for side in SIDES)
            lines.append(f"ceiling of re-ranking: first-stage R@{self.k} {ceilings} (TR / IR); mix {self.mix:g}")
        for key, title, _ in self.stages():
            if key in self.folds:
                lines.append(f"spread over folds, {title}: {_spreads(self.folds[key])}")
            if key in self.intervals:
                lines.append(f"95 % intervals, {title}: {_bounds(self.intervals[key])}")
        lines += [f"95 % intervals, gain of {name}: {_bounds(gain)}" for name, gain in self.gains.items()]
        lines += self._judged()
        if self.pairs:
            rate, by = self.pairs / max(self.score_seconds, 1e-9), self.second_by or "itm"
            lines.append(f"encoded in {self.encode_seconds:.1f} s, {self.pairs} pairs by {by} at {rate:.0f} pairs/s")
        return lines + self._plausible()

    def _judged(self) -> list[str]:
        lines = []
        for name, stages in self.judged.items():
            for key, title, _ in self.stages():
                sides = [f"{SHORT[side]} {_found(metrics)}" for side, metrics in stages[key].items()]
                lines.append(f"{name}, {title}: {'; '.join(sides)}")
        for name, sides_found in self.within.items():
            lines += [f"{name}, {side} by {self.first_by}: {_found(found)}" for side, found in sides_found.items()]
        for name, tasks in self.correlations.items():
            told = [f"{task} {_correlation(found)}" for task, found in tasks.items()]
            lines += [f"{name}, Spearman x 100 of scores with ratings: {'; '.join(told)}"] if told else []
        return lines

    def _plausible(self) -> list[str]:
        """Last, with its caveat."""
        lines = []
        for key, title, _ in self.stages():
            if key in self.plausible:
                told = [f"{SHORT[side]} {self.plausible[key][side]['PMRP']:.1f}" for side in SIDES]
                lines.append(f"PMRP of {self.labelled} labelled pictures, {title}: {', '.join(told)}")
        return [*lines, "PMRP goes by labels of classes: of its matches people confirm 65 / 57 % only"] if lines else []


def _row(name: str, metrics: Metrics) -> list[str]:
    recalls = [f"{metrics[side][f'R@{k}']:.1f}" for side in SIDES for k in (1, 5, 10)]
    joined = ["/".join(f"{metrics[side][what]:.{digits}f}" for side in SIDES)
              for what, digits in (("median rank", 0), ("mean rank", 1), ("ties", 1))]  # fmt: skip
    return [name, *recalls, f"{metrics['all']['rsum']:.1f}", *joined]


def _bounds(found: Intervals) -> str:
    sides = [f"{SHORT[side]}@1 {_bound(found[side]['R@1'])}" for side in SIDES]
    return ", ".join([*sides, f"rsum {_bound(found['all']['rsum'])}"])


def _bound(pair: list[float]) -> str:
    return f"{pair[0]:.1f} to {pair[1]:.1f}"


def _spreads(metrics: Metrics) -> str:
    sides = [f"{SHORT[side]}@1 {metrics[side]['R@1 spread']:.1f}" for side in SIDES]
    return ", ".join([*sides, f"rsum {metrics['all']['rsum spread']:.1f}"])


def _found(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metrics[name]:.1f}" for name in ("R@1", "R@5", "R@10", "R-precision", "mAP@R"))


def _correlation(found: dict[str, float]) -> str:
    over_all = f"{found['all pairs']:.1f}"
    if "samples" not in found:
        return over_all
    return f"{over_all}, over samples {found['samples']:.1f} +- {found['spread']:.1f}"
