"""`vlp runs FOLDER`: the runs in a folder with state, step, loss and best R@1; `vlp runs plot` draws their curves."""

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlp.config import ConfigError

LOG, RECORD, CONFIG = "log.jsonl", "run.json", "config.json"
SILENT = 900.0  # seconds without a line after which a run on another machine counts as lost


@dataclass
class RunRecord:
    """A run as its folder tells it."""

    path: Path
    steps: int  # to go in all
    starts: list[dict[str, Any]]  # of run.json
    lines: list[dict[str, Any]] = field(default_factory=list)  # of log.jsonl
    written: float = 0.0  # when the log was last written to

    @property
    def step(self) -> int:
        """The last logged step."""
        return max((int(line["step"]) for line in self.lines), default=0)

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a logged metric."""
        return [(int(line["step"]), float(line[name])) for line in self.lines if name in line]

    def last(self, name: str) -> float | None:
        """The newest value of a metric, None where it was never logged."""
        values = self.curve(name)
        return values[-1][1] if values else None

    def best(self, ending: str) -> tuple[str, int, float] | None:
        """(metric, step, value): the largest value of the metrics whose name ends so."""
        names = {name for line in self.lines for name in line if name.endswith(ending)}
        values = [(name, step, value) for name in sorted(names) for step, value in self.curve(name)]
        return max(values, key=lambda found: found[2], default=None)

    def state(self) -> str:
        """How the process that started last has ended, "running", or "killed" when it is gone without a word."""
        last = self.starts[-1]
        if "ended" in last:
            return str(last["ended"]["state"])
        process = last.get("process", {})
        if process.get("host") == platform.node():
            return "running" if _is_alive(process["pid"]) else "killed"
        return "running" if time.time() - self.written < SILENT else "silent"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def read_run(path: Path) -> RunRecord:
    """A run's folder. Lines of the log that are torn or not JSON are left out."""
    starts = json.loads((path / RECORD).read_text())["starts"]
    steps = json.loads((path / CONFIG).read_text())["run"]["steps"]
    record = RunRecord(path, steps, starts)
    if (path / LOG).is_file():
        record.written = (path / LOG).stat().st_mtime
        for text in (path / LOG).read_text().splitlines():
            try:
                record.lines.append(json.loads(text))
            except ValueError:
                continue
    return record


def find_runs(folder: Path) -> list[RunRecord]:
    """The run that a folder is, and those below it, by name. Raises ConfigError where there is none."""
    found = [read_run(path.parent) for path in sorted(folder.rglob(RECORD)) if (path.parent / CONFIG).is_file()]
    if not found:
        raise ConfigError(f"{folder} holds no run; a run's folder has {RECORD} and {LOG}")
    return found


def table(runs: list[RunRecord], root: Path) -> str:
    """One line a run."""
    rows = [["run", "state", "step", "loss", "best R@1 TR", "best R@1 IR", "pairs/s", "MFU", "skipped", "last line"]]
    for run in runs:
        name = str(run.path.relative_to(root)) if run.path != root else run.path.name
        best = [run.best(f"{side}/R@1") for side in ("image to text", "text to image")]
        written = datetime.fromtimestamp(run.written, UTC).strftime("%Y-%m-%d %H:%M") if run.written else "-"
        numbers = [(run.last("loss"), ".4f"), *((found and found[2], ".1f") for found in best)]
        numbers += [
            (run.last("samples_per_second"), ".0f"),
            (run.last("mfu"), ".1%"),
            (run.last("skipped_steps"), ".0f"),
        ]
        cells = ["-" if value is None else format(value, form) for value, form in numbers]
        rows.append([name, run.state(), f"{run.step}/{run.steps}", *cells, written])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a run's folder, or one with runs in it")
    parser.add_argument("--out", type=Path, help="plot: the picture to write (default: FOLDER/curves.png)")


def main(args: argparse.Namespace) -> int:
    """List, or with the verb "plot" draw."""
    runs = find_runs(args.folder)
    print(table(runs, args.folder))
    if args.verb == "plot":
        from vlp.engine.curves import draw

        out = args.out or args.folder / "curves.png"
        draw(runs, out)
        print(out)
    return 0
