"""How long the metrics of a score matrix of COCO's test size take on one core: 5,000 pictures and 25,010 captions.

    python -m benchmarks.ranks --json benchmarks/results/ranks.json

The matrix has ties. Before it is timed, a part of the queries is counted again one by one in plain Python.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from vlp.engine.provenance import machine, timestamp
from vlp.retrieval.ranks import SIDES, rank

LOOKED_AT = 40  # queries of each direction that are counted again


def make(pictures: int, captions: int) -> tuple[Tensor, Tensor]:
    """Scores rounded so that some tie, and an id map in which some pictures have more captions than others."""
    g = torch.Generator().manual_seed(0)
    owners = (
        torch.cat([torch.arange(pictures), torch.randint(pictures, (captions - pictures,), generator=g)]).sort().values
    )
    scores = torch.randn(pictures, captions, generator=g)
    scores[owners, torch.arange(captions)] += 3.0
    return (scores * 4096).round() / 4096, owners


def check(scores: Tensor, owners: Tensor) -> None:
    """Compare counts with a plain count. Raises SystemExit where one differs."""
    outcome = rank(scores, owners)
    for query in range(0, len(scores), len(scores) // LOOKED_AT):
        row = scores[query].tolist()
        best = max(score for score, owner in zip(row, owners.tolist(), strict=True) if owner == query)
        found = int(outcome.image_to_text.above[query]), int(outcome.image_to_text.tied[query])
        if found != (sum(s > best for s in row), sum(s == best for s in row)):
            raise SystemExit(f"picture {query} is counted wrongly: {found}")
    for query in range(0, len(owners), len(owners) // LOOKED_AT):
        column = scores[:, query].tolist()
        own = column[int(owners[query])]
        found = int(outcome.text_to_image.above[query]), int(outcome.text_to_image.tied[query])
        if found != (sum(s > own for s in column), sum(s == own for s in column)):
            raise SystemExit(f"caption {query} is counted wrongly: {found}")


def main() -> None:
    """Count again, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=25010)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scores, owners = make(args.pictures, args.captions)
    check(scores, owners)
    wall, cpu = [], []
    for _ in range(args.rounds):
        start, busy = time.perf_counter(), time.process_time()
        metrics = rank(scores, owners).metrics()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    result = {
        "time": timestamp(),
        "machine": machine(),
        "pictures": args.pictures,
        "captions": args.captions,
        "cpu_seconds": statistics.median(cpu),
        "wall_seconds": statistics.median(wall),
        "metrics": metrics,
    }
    print(
        f"{args.pictures} x {args.captions}: {result['cpu_seconds']:.2f} s of one core, {result['wall_seconds']:.2f} s"
    )
    ties = " / ".join(f"{metrics[side]['ties']:.1f}" for side in SIDES)
    print(f"  queries with ties, in per cent: {ties}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
