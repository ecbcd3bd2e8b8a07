"""Finished runs of the survey: one file each, those of tables that were written before, and the table."""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

PLACES = ("json", "out", "cache", "folders", "known")  # where things lie, which changes no figure
ALIKE = ("data", "steps", "batch", "limit", "test_limit", "noise", "views")  # what makes runs comparable


def settings(args: argparse.Namespace) -> dict[str, str]:
    """What was asked for, as a table keeps it."""
    return {name: str(value) for name, value in vars(args).items() if name not in PLACES}


def adopt(path: Path, folder: Path, args: argparse.Namespace) -> None:
    """Runs of a table as finished ones, where there are none yet. Raises SystemExit where it has other settings."""
    table = json.loads(path.read_text())
    theirs, ours = table["settings"], settings(args)
    other = [name for name in ALIKE if theirs[name] != ours[name]]
    if other:
        told = ", ".join(f"{name} {theirs[name]}, not {ours[name]}" for name in other)
        raise SystemExit(f"--known {path}: its runs have other settings: {told}")
    for name, records in table["runs"].items():
        for record in records:
            place = folder / f"{name}-{record['seed']}.json"
            if not place.is_file():
                keep(place, record)


def keep(path: Path, record: dict[str, Any]) -> None:
    """Write beside and rename."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(path)


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The survey's tables with what was measured: mean over the seeds, and their spread. Twins: captions that score
    their own picture above one that differs in a look / in a relation."""
    heads = ("i2t R@1", "t2i R@1", "twins", "train CPU s", "score s/1k")
    lines = [f"{'system':<22}{'family':<16}" + "".join(f"{head:>14}" for head in heads) + "  index"]
    for records in sorted(found.values(), key=lambda r: (r[0]["family"], -_mean(r, "rsum"))):
        first = records[0]
        cells = [_spread(records, f"{side} R@1") for side in ("image to text", "text to image")]
        told = [f"twins that differ in a {kind}" for kind in ("look", "relation")]
        cells.append(" / ".join(f"{_mean(records, name):.0f}" for name in told if first[name] is not None))
        cells.append(f"{_mean(records, 'training CPU seconds'):.0f}")
        cells.append(f"{_mean(records, 'scoring CPU seconds per 1,000 queries'):.3f}")
        lines.append(
            f"{first['system']:<22}{first['family']:<16}" + "".join(f"{c:>14}" for c in cells) + f"  {first['index']}"
        )
    return lines


def _mean(records: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(record[name] for record in records)


def _spread(records: list[dict[str, Any]], name: str) -> str:
    values = [record[name] for record in records]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
