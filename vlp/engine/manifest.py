"""The manifest of a checkpoint: size and SHA-256 of every file, written last and checked before anything is read."""

import hashlib
import json
from pathlib import Path
from typing import Any

from vlp.engine.tensors import CheckpointError

MANIFEST, STATE = "manifest.json", "state.json"
FORMAT, VERSION = "vlp-checkpoint", 1


class VersionError(CheckpointError):
    """A checkpoint of a form that this version of vlp does not read."""


def write_manifest(folder: Path) -> None:
    """Record the files of a folder as they are now."""
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "version": VERSION, "files": files}, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> {bytes, sha256}. Raises CheckpointError for a torn manifest, VersionError for none or another."""
    if (folder / STATE).is_file() and not (folder / MANIFEST).is_file():
        raise VersionError(
            f"{folder} has no {MANIFEST}: it was written before checkpoints had one (version 0), which this version of "
            f"vlp does not read; go on with the commit that its {STATE} names, or start anew in another run.out"
        )
    try:
        record = json.loads((folder / MANIFEST).read_text())
        files: dict[str, dict[str, Any]] = record["files"]
        kind, version = record["format"], record["version"]
        _ = [entry["bytes"] for entry in files.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {MANIFEST} cannot be read ({error})") from error
    if (kind, version) != (FORMAT, VERSION):
        raise VersionError(f"{folder} is a {kind!r} of version {version}; this version of vlp reads {FORMAT} {VERSION}")
    return files


def verify(folder: Path) -> None:
    """Raise CheckpointError naming the file that is missing, short or changed since the checkpoint was written."""
    for name, recorded in read_manifest(folder).items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder} is not a whole checkpoint: {name} is missing")
        if path.stat().st_size != recorded["bytes"]:
            raise CheckpointError(f"{path} is damaged: {path.stat().st_size} bytes instead of {recorded['bytes']}")
        if _fingerprint(path) != recorded:
            raise CheckpointError(f"{path} is damaged: its content is not what was written")


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
