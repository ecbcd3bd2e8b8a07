"""Checkpoints: folders that are whole or not there.

    step-00000100/  model.safetensors  optimizer.safetensors  config.json  tokenizer.json  state.json

A checkpoint is written to a hidden folder beside its place, flushed to disk and renamed. `state.json`, written last,
records step, seed, versions, and size and CRC-32 of every other file; a folder that disagrees with it is passed over.
"""

import json
import os
import re
import shutil
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlp.engine.tensors import CheckpointError, write_tensors

STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / f"step-{step:08d}"


def save(
    run: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    files: Mapping[str, bytes],
    state: Mapping[str, Any],
    keep: int = 0,
) -> Path:
    """Write the checkpoint of `step` in one move, then remove all but the newest `keep` (0 = keep all).

    `tensors` and `files` map file names to contents. Raises CheckpointError when it cannot be written; earlier
    checkpoints are then as they were.
    """
    folder = checkpoint_path(run, step)
    hidden = run / f".{folder.name}.partial"
    try:
        clean(run)
        hidden.mkdir(parents=True)
        for name, named in tensors.items():
            write_tensors(hidden / name, named)
        for name, content in files.items():
            (hidden / name).write_bytes(content)
        record = {"step": step, **state, "files": {p.name: _fingerprint(p) for p in sorted(hidden.iterdir())}}
        (hidden / STATE).write_text(json.dumps(record, indent=2) + "\n")
        for path in [*hidden.iterdir(), hidden]:
            _flush(path)
        _move_into_place(hidden, folder)
    except OSError as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise CheckpointError(f"checkpoint {folder} could not be written ({error}); earlier ones are intact") from error
    for old in list_checkpoints(run)[:-keep] if keep else []:
        _remove(old)
    return folder


def _move_into_place(hidden: Path, folder: Path) -> None:
    if folder.exists():  # a damaged one that a resumed run passed over
        _remove(folder)
    os.replace(hidden, folder)
    _flush(folder.parent)


def _remove(folder: Path) -> None:
    # Renamed first, so that a half-deleted folder never looks like a checkpoint.
    gone = folder.with_name(f".{folder.name}.removed")
    os.replace(folder, gone)
    shutil.rmtree(gone)


def clean(run: Path) -> None:
    """Remove what interrupted writes and removals left behind."""
    for pattern in (".step-*.partial", ".step-*.removed"):
        for path in run.glob(pattern):
            shutil.rmtree(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fingerprint(path: Path) -> dict[str, int]:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return {"bytes": path.stat().st_size, "crc32": crc}


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest step first, whole or not."""
    found = [p for p in run.iterdir() if p.is_dir() and _NAME.fullmatch(p.name)] if run.is_dir() else []
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def read_state(folder: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint. Raises CheckpointError when it cannot be read."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {STATE} cannot be read ({error})") from error
    return state


def verify(folder: Path) -> None:
    """Raise CheckpointError naming the file that is missing, short or changed since the checkpoint was written."""
    for name, recorded in read_state(folder)["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder} is not a whole checkpoint: {name} is missing")
        if path.stat().st_size != recorded["bytes"]:
            raise CheckpointError(f"{path} is damaged: {path.stat().st_size} bytes instead of {recorded['bytes']}")
        if _fingerprint(path) != recorded:
            raise CheckpointError(f"{path} is damaged: its content is not what was written")


def newest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run; newer damaged ones are passed over with a warning. None without any."""
    for folder in reversed(list_checkpoints(run)):
        try:
            verify(folder)
        except CheckpointError as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
        else:
            return folder
    return None


def resolve(path: Path | str) -> Path:
    """The checkpoint that a path names: a checkpoint folder, or the newest one of a run's folder.

    Raises CheckpointError when there is none.
    """
    folder = Path(str(path))
    if (folder / STATE).is_file():
        verify(folder)
        return folder
    found = newest(folder)
    if found is None:
        raise CheckpointError(
            f"{folder} is no checkpoint: give a folder such as runs/NAME/step-00001000, or runs/NAME for its newest"
        )
    return found
