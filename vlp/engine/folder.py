"""A run's folder: refused when it holds another run, cut back to the checkpoint when resumed."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from vlp.config import ConfigError
from vlp.engine.checkpoint import clean, newest
from vlp.engine.provenance import timestamp

LOG = "log.jsonl"
RANKS = "ranks.jsonl"  # at each logged step: times and memory of each rank
SKIPPED = "skipped.jsonl"  # steps that were not taken: why, with the sample keys of each rank
RECORD = "run.json"
CONFIG = "config.json"


def find_start(run: Path, resume: bool) -> Path | None:
    """The checkpoint to resume from, or None for a start from step 0. Changes nothing on disk.

    Raises ConfigError for a fresh start into a folder that is in use. Resuming a folder without a whole checkpoint
    starts from step 0, so that a job may always be launched with --resume.
    """
    if run.is_file():
        raise ConfigError(f"run.out={run} is a file; name a folder")
    if resume:
        return newest(run)
    if run.is_dir() and any(run.iterdir()):
        raise ConfigError(f"run.out={run} is not empty: continue that run with --resume, or choose another run.out=...")
    return None


def open_folder(run: Path, config: dict[str, Any], record: dict[str, Any], start: int) -> None:
    """Make or clean the folder, write the resolved config, add `record` to run.json, cut the log after step `start`."""
    run.mkdir(parents=True, exist_ok=True)
    clean(run)
    write_json(run / CONFIG, config)
    path = run / RECORD
    starts = json.loads(path.read_text())["starts"] if path.is_file() else []
    process = {"host": platform.node(), "pid": os.getpid()}
    write_json(path, {"starts": [*starts, {"from_step": start, "process": process, **record}]})
    for log in (LOG, RANKS, SKIPPED):
        cut_log(run / log, start)


def record_end(run: Path, state: str, step: int | None) -> None:
    """Note in run.json how the process that started last has ended: "finished", "stopped by SIGTERM", ..."""
    path = run / RECORD
    record = json.loads(path.read_text())
    record["starts"][-1]["ended"] = {"state": state, "step": step, "time": timestamp()}
    write_json(path, record)


def cut_log(path: Path, start: int) -> None:
    """Keep the lines of steps up to `start`: what came after is done again. A torn last line goes too."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text().splitlines() if _step(line) <= start]
    _replace(path, "".join(f"{line}\n" for line in kept))


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def write_json(path: Path, value: Any) -> None:
    """Write JSON beside its place and rename it, so that a reader never sees half a file."""
    _replace(path, json.dumps(value, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text)
    os.replace(beside, path)


def changed_fields(old: Any, new: Any, where: str = "") -> list[str]:
    """Dotted names of the fields in which two config records differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [
            field
            for name in names
            for field in changed_fields(old.get(name), new.get(name), f"{where}.{name}" if where else name)
        ]
    return [] if old == new else [where]
