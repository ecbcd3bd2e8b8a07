"""Checkpoints: folders that are whole or not there.

    step-00000100/  model.safetensors  optimizer.safetensors  config.json  tokenizer.json  state.json  manifest.json

A checkpoint is written to a hidden folder beside its place, flushed to disk and renamed. `state.json` records step,
seed, versions and metrics; `manifest.json`, written last, size and SHA-256 of every file. A folder that disagrees with
its manifest is passed over. Folders without one (version 0) are refused.
"""

import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from vlp.engine.manifest import MANIFEST, STATE, VersionError, verify, write_manifest
from vlp.engine.retention import Retention
from vlp.engine.tensors import CheckpointError, Frozen, write_tensors

_NAME = re.compile(r"step-(\d{8,})")


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / f"step-{step:08d}"


def save(
    run: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor] | Frozen],
    files: Mapping[str, bytes],
    state: Mapping[str, Any],
    retention: Retention = Retention(),  # noqa: B008 (frozen)
) -> Path:
    """Write the checkpoint of `step` in one move, then remove those that `retention` does not keep.

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
        record = {"step": step, "written": time.time(), **state}
        (hidden / STATE).write_text(json.dumps(record, indent=2) + "\n")
        write_manifest(hidden)
        for path in [*hidden.iterdir(), hidden]:
            flush(path)
        _move_into_place(hidden, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise CheckpointError(f"checkpoint {folder} could not be written ({error}); earlier ones are intact") from error
    prune(run, step, retention)
    return folder


def prune(run: Path, step: int, retention: Retention) -> None:
    """Remove the checkpoints that are not kept once `step` is written."""
    folders = {int(folder.name.removeprefix("step-")): folder for folder in list_checkpoints(run)}
    kept = retention.kept({s: _known(folder) for s, folder in folders.items()}, step)
    for s, folder in folders.items():
        if s not in kept:
            _remove(folder)


def _known(folder: Path) -> dict[str, Any]:
    try:
        return read_state(folder)
    except CheckpointError:  # damaged: nothing is known of it
        return {}


def _move_into_place(hidden: Path, folder: Path) -> None:
    if folder.exists():  # a damaged one that a resumed run passed over
        _remove(folder)
    os.replace(hidden, folder)
    flush(folder.parent)


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


def flush(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def newest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run; newer damaged ones are passed over with a warning. None without any.

    Raises VersionError when there is none, but one that another version of vlp would read.
    """
    other: VersionError | None = None
    for folder in reversed(list_checkpoints(run)):
        try:
            verify(folder)
        except CheckpointError as error:
            warnings.warn(f"passed over: {error}", stacklevel=2)
            other = error if isinstance(error, VersionError) else other
        else:
            return folder
    if other is not None:
        raise other
    return None


def resolve(path: Path | str) -> Path:
    """The checkpoint that a path names: a checkpoint folder, or the newest one of a run's folder.

    Raises CheckpointError when there is none.
    """
    folder = Path(str(path))
    if (folder / STATE).is_file() or (folder / MANIFEST).is_file():
        verify(folder)
        return folder
    found = newest(folder)
    if found is None:
        raise CheckpointError(
            f"{folder} is no checkpoint: give a folder such as runs/NAME/step-00001000, or runs/NAME for its newest"
        )
    return found
