"""`vlp checkpoint consolidate`: one safetensors file of a model, from a checkpoint of any launch or from shards.

Reads on the CPU, tensor by tensor, and unpickles nothing: shards that hold pickles are refused with what to do first.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PREFIXES = {False: "model.", True: "teacher.copy.model."}  # student and momentum teacher in a task's state
DTYPES = ("fp32", "fp16", "bf16")
INDEX = "model.safetensors.index.json"
# What others leave behind -> their own way out of pickle.
PICKLED = {
    "*zero_pp_rank_*": "DeepSpeed's shards are pickles; where you trust them run its "
    "`python zero_to_fp32.py . OUT --safe_serialization`, and consolidate what that writes",
    "*.distcp": "torch.distributed.checkpoint keeps a pickle in .metadata; where you trust it run "
    "`accelerate merge-weights FOLDER OUT`, and consolidate what that writes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    help = "a checkpoint, a run for its newest one, a safetensors file, or a folder of shards with their index"
    parser.add_argument("source", metavar="CHECKPOINT", type=Path, help=help)
    parser.add_argument("out", metavar="OUT.safetensors", type=Path, help="the file to write; must not be there")
    parser.add_argument("--teacher", action="store_true", help="the momentum teacher in place of the model")
    parser.add_argument("--dtype", choices=DTYPES, help="of the floats (default: as they are)")


def main(args: argparse.Namespace) -> int:
    """Write the file and say what is in it."""
    tensors = consolidate(args.source, args.out, teacher=args.teacher, dtype=args.dtype)
    numbers = sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in tensors.values()}.values())
    with args.out.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    print(
        f"{args.out}: {len(tensors)} tensors, {numbers:,} numbers, {args.out.stat().st_size:,} bytes, sha256 {digest}"
    )
    return 0


def consolidate(source: Path, out: Path, *, teacher: bool = False, dtype: str | None = None) -> Mapping[str, Any]:
    """Write the student model (or the teacher's copy of it) as one file under the names of `VLModel`, in one move.

    Checkpoints are verified first. Raises CheckpointError for damage, for pickles, and for a source without that model.
    """
    from vlp.engine.checkpoint import flush
    from vlp.engine.tensors import FLOATS, CheckpointError, in_dtype, write_tensors

    if out.exists():
        raise CheckpointError(f"{out} is there already; name a file that is not, or remove it")
    tensors = _tensors(source, PREFIXES[teacher])
    if not tensors:
        raise CheckpointError(
            f"{source} holds no tensors named {PREFIXES[teacher]}...: it "
            + ("has no momentum teacher; leave out --teacher" if teacher else "is not the state of a task of vlp")
        )
    if dtype is not None:
        tensors = in_dtype(tensors, FLOATS[dtype])
    beside = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(beside, tensors)
        flush(beside)
        os.replace(beside, out)
        flush(out.parent)
    except OSError as error:
        raise CheckpointError(f"{out} could not be written ({error})") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return tensors


def _tensors(source: Path, prefix: str) -> dict[str, Any]:
    from vlp.engine.checkpoint import resolve
    from vlp.engine.tensors import CheckpointError, read_tensors

    for pattern, remedy in PICKLED.items():
        if source.is_dir() and any(source.rglob(pattern)):
            raise CheckpointError(f"{source}: {remedy}")
    if source.is_file():
        return read_tensors(source, prefix)
    if not (source / INDEX).is_file():
        return read_tensors(resolve(source) / "model.safetensors", prefix)
    tensors: dict[str, Any] = {}
    places = _index(source / INDEX)
    for file in sorted(set(places.values())):
        tensors |= read_tensors(source / file, prefix)
    missing = [name for name in places if name.startswith(prefix) and name.removeprefix(prefix) not in tensors]
    if missing:
        raise CheckpointError(f"{source}: the shards lack {len(missing)} tensors of {INDEX}, the first {missing[0]}")
    return tensors


def _index(path: Path) -> dict[str, str]:
    """Tensor name -> file of the same folder. Raises CheckpointError."""
    from vlp.engine.tensors import CheckpointError

    try:
        places = dict(json.loads(path.read_text())["weight_map"])
        outside = [file for file in places.values() if Path(file).name != file]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}); write the shards again") from error
    if outside:
        raise CheckpointError(f"{path} names {outside[0]}, which is not a file beside it")
    return places
