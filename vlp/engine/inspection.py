"""`vlp checkpoint inspect|verify|average`: what is in a checkpoint, whether it is whole, the mean of several."""

import argparse
import json
import struct
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments; `vlp checkpoint average` alone reads --out."""
    help = "a checkpoint (runs/NAME/step-00001000), or a run's folder for all of its checkpoints"
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help=help)
    parser.add_argument("--out", type=Path, help="average: the folder to write the mean into")


def main(args: argparse.Namespace) -> int:
    """Run the verb. 1 = a damaged checkpoint was found."""
    folders = [folder for path in args.paths for folder in checkpoints(path)]
    if args.verb == "verify":
        return _verify(folders)
    if args.verb == "average":
        return _average(folders, args.out)
    for folder in folders:
        print(describe(folder))
    return 0


def checkpoints(path: Path) -> list[Path]:
    """The checkpoint that a path is, or those of the run that it is. Raises CheckpointError where there is none."""
    from vlp.engine.checkpoint import list_checkpoints
    from vlp.engine.manifest import STATE
    from vlp.engine.tensors import CheckpointError

    if (path / STATE).is_file():
        return [path]
    found = list_checkpoints(path)
    if not found:
        raise CheckpointError(f"{path} is no checkpoint and holds none; give a run's folder or one of its step-...")
    return found


def _verify(folders: list[Path]) -> int:
    from vlp.engine.manifest import verify
    from vlp.engine.tensors import CheckpointError

    damaged = 0
    for folder in folders:
        try:
            verify(folder)
            print(f"{folder}: whole")
        except CheckpointError as error:
            damaged += 1
            print(error)
    return 1 if damaged else 0


def _average(folders: list[Path], out: Path | None) -> int:
    from vlp.config import ConfigError
    from vlp.engine.averaging import average

    if out is None:
        raise ConfigError("vlp checkpoint average needs --out FOLDER")
    print(average(folders, out))
    return 0


def describe(folder: Path) -> str:
    """A checkpoint as text: where it comes from, its metrics, its files and what the tensors are."""
    from vlp.engine.checkpoint import read_state
    from vlp.engine.manifest import read_manifest

    state = read_state(folder)
    written = datetime.fromtimestamp(state["written"], UTC).isoformat(timespec="seconds")
    lines = [
        f"{folder}: step {state['step']}, written {written}, seed {state.get('seed')}, config {state.get('config')}",
        f"  commit {state.get('commit')}",
        "  " + ", ".join(f"{name} {version}" for name, version in state.get("versions", {}).items()),
    ]
    if "averaged" in state:
        lines.append(f"  the mean of {', '.join(state['averaged'])}")
    lines += [f"  {name:<40} {value:.6g}" for name, value in sorted(state.get("metrics", {}).items())]
    for name, entry in read_manifest(folder).items():
        lines.append(f"  {name:<24} {entry['bytes']:>14,} bytes  sha256 {entry['sha256'][:16]}")
        if name.endswith(".safetensors"):
            lines += [f"    {row}" for row in tensor_table(folder / name)]
    return "\n".join(lines)


def tensor_table(path: Path) -> list[str]:
    """Numbers and tensors of a safetensors file by the first two parts of their names and by type, from its header."""
    numbers: Counter[tuple[str, str]] = Counter()
    tensors: Counter[tuple[str, str]] = Counter()
    for name, entry in _header(path).items():
        key = (".".join(name.split(".")[:2]), entry["dtype"])
        size = 1
        for length in entry["shape"]:
            size *= length
        numbers[key] += size
        tensors[key] += 1
    return [f"{part:<30} {kind:<5} {numbers[part, kind]:>14,} in {tensors[part, kind]}" for part, kind in numbers]


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
