"""What an evaluation found: a record to keep and a table to read."""

from dataclasses import asdict, dataclass
from typing import Any

Metrics = dict[str, dict[str, float]]
SIDES = ("image to text", "text to image")
HEADER = ["", "TR@1", "TR@5", "TR@10", "IR@1", "IR@5", "IR@10", "rsum", "medr", "meanr", "ties"]


@dataclass
class Report:
    """Recalls in per cent; TR = image to text, IR = text to image. Absent stages are None."""

    data: str
    images: int
    texts: int
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
    encode_seconds: float = 0.0
    score_seconds: float = 0.0

    def best(self) -> Metrics:
        """The metrics of the last stage that ran."""
        found = self.full or self.reranked or self.banked or self.first
        assert found is not None
        return found

    def to_json(self) -> dict[str, Any]:
        """The record without stages that did not run."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def table(self) -> str:
        """One row a stage, aligned for a terminal."""
        lines = [HEADER]
        stages = (("first stage", self.first), ("... and bank", self.banked), (f"re-ranked k={self.k}", self.reranked))
        for name, metrics in stages:
            if metrics is not None:
                lines.append(_row(name, metrics))
        if self.full is not None:
            lines.append(_row(f"every pair by {self.second_by or 'itm'}", self.full))
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
        cells = [zip(line, widths, strict=True) for line in lines]
        table = ["  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(row)) for row in cells]
        table.append(
            f"{self.images} pictures, {self.texts} captions of {self.data}; TR = image to text, IR = text to image"
        )
        if self.ceiling is not None:
            ceilings = " / ".join(f"{self.ceiling[side]:.1f}" for side in SIDES)
            table.append(f"ceiling of re-ranking: first-stage R@{self.k} {ceilings} (TR / IR); mix {self.mix:g}")
        if self.pairs:
            rate = self.pairs / max(self.score_seconds, 1e-9)
            by = self.second_by or "itm"
            table.append(f"encoded in {self.encode_seconds:.1f} s, {self.pairs} pairs by {by} at {rate:.0f} pairs/s")
        return "\n".join(table)


def _row(name: str, metrics: Metrics) -> list[str]:
    recalls = [f"{metrics[side][f'R@{k}']:.1f}" for side in SIDES for k in (1, 5, 10)]
    joined = ["/".join(f"{metrics[side][what]:.{digits}f}" for side in SIDES)
              for what, digits in (("median rank", 0), ("mean rank", 1), ("ties", 1))]  # fmt: skip
    return [name, *recalls, f"{metrics['all']['rsum']:.1f}", *joined]
