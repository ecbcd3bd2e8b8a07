"""How long a checkpoint stops the training: written at once, and in a thread from a copy.

    python -m benchmarks.checkpoint --megabytes 800

Writes a state of that size into a temporary folder (or `--folder`), several times in each form, alternating.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from vlp.engine.provenance import machine, timestamp
from vlp.engine.retention import Retention
from vlp.engine.writer import CheckpointWriter


def main() -> None:
    """Print the medians as a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=800, help="size of the state")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints in each form")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder otherwise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    state = {f"block{i}": torch.randn(2_500_000) for i in range(max(args.megabytes // 10, 1))}  # 10 MB each
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        seconds = stalls(Path(folder), state, args.rounds)
    whole, thread = (median(seconds[form][1:]) for form in (False, True))  # the first makes the memory of the copy
    result = {
        "time": timestamp(),
        "machine": machine(),
        "megabytes": args.megabytes,
        "synchronous_seconds": whole,
        "asynchronous_stall_seconds": thread,
        "first_asynchronous_stall_seconds": seconds[True][0],
        "share": thread / whole,
    }
    print(f"{args.megabytes} MB, seconds that the training stands still")
    print(f"  written at once     {whole:6.2f}")
    print(f"  in a thread         {thread:6.2f}   {thread / whole:.1%}")
    print(f"  ... the first time  {seconds[True][0]:6.2f}   its memory is new")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def stalls(folder: Path, state: dict[str, torch.Tensor], rounds: int) -> dict[bool, list[float]]:
    """Seconds that `save` took in each form; an asynchronous write is over before the next begins."""
    keep = Retention(newest=1)
    writers = {form: CheckpointWriter(folder / str(form), keep, asynchronous=form) for form in (False, True)}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for step in range(1, rounds + 2):
        for form, writer in writers.items():
            start = time.perf_counter()
            writer.save(step, tensors={"model.safetensors": state}, files={}, state={})
            seconds[form].append(time.perf_counter() - start)
            writer.wait()
    return seconds


if __name__ == "__main__":
    main()
