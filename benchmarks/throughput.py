"""Training throughput of both systems at four sizes, on the accelerator, or on the CPU where there is none.

    python -m benchmarks.throughput --json benchmarks/results/throughput.json
    python -m benchmarks.throughput --sizes B L --batch 64 --compile
    python -m benchmarks.throughput --sizes debug S B L --batch 2 --runs 1    # all eight on a CPU with 24 GB

"B" is each system's published size (`configs/systems/albef.py`, `vilt.py`), "S" and "L" ViT's small and large widths in
the same wiring, "debug" `configs/debug.py`. The steps are the engine's own (`vlp.engine.loop.train`: clipping, verdict,
optimizer, teacher and queue), on random pictures and captions as long as COCO's, so no reading is in them. Each size
runs in a process of its own; one that does not fit is told so and passed over.
"""

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import torch

from configs import debug
from configs.parts import one_stream, two_stream
from configs.systems import albef, vilt
from vlp.data.mock import mock_batch
from vlp.engine import launch
from vlp.engine.flops import count_flops, peak_flops
from vlp.engine.guard import Guard
from vlp.engine.loop import Hooks, train
from vlp.engine.meter import Meter
from vlp.engine.optim import build_optimizer
from vlp.engine.precision import PRECISIONS, resolve_precision
from vlp.engine.provenance import machine, timestamp
from vlp.engine.switches import apply_switches
from vlp.training import TrainConfig, build_task

SYSTEMS = ("two_stream", "one_stream")
# name of ViT's size -> timm's vision part, width, layers, heads
SIZES: dict[str, tuple[str, int, int, int]] = {
    "S": ("vit_small_patch16_224", 384, 12, 6),
    "B": ("vit_base_patch16_224", 768, 12, 12),
    "L": ("vit_large_patch16_224", 1024, 24, 16),
}


def config_of(system: str, size: str) -> TrainConfig:
    """A system's config at a size."""
    if size == "debug":
        return debug.config() if system == "two_stream" else debug.one_stream()
    vit, width, layers, heads = SIZES[size]
    if system == "one_stream":
        run = vilt.config()
        run.model, run.objectives = one_stream(
            image_size=run.data.image_size, patch=32, width=width, layers=layers, heads=heads, whole_words=True
        )
        return run
    run = albef.config()
    run.model, run.objectives, run.teacher = two_stream(
        vit=vit,
        image_size=run.data.image_size,
        width=width,
        text_layers=layers // 2,
        fusion_layers=layers // 2,
        heads=heads,
        embed_dim=256,
    )
    return run


def measure(system: str, size: str, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of the second half of `2 * runs` steps; the first half warms up."""
    config = config_of(system, size)
    run = replace(
        config.run,
        steps=2 * args.runs,
        log_every=args.runs,
        accumulate=1,
        precision=resolve_precision(args.precision),
        compile=args.compile,
        checkpointing=args.checkpointing,
        threads=args.threads,
    )
    accelerator = launch.start(run)
    task = build_task(config)
    apply_switches(task, run)
    task.to(accelerator.device)
    words = cast(int, task.model.text.vocab_size)
    sizes = args.batch, config.data.image_size, config.data.max_length, words
    batches = [mock_batch(*sizes, seed=seed).to(accelerator.device) for seed in range(4)]
    with accelerator.autocast():
        flops = count_flops(task, batches[0])
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    meter = Meter(flops_per_sample=flops, peak_flops=peak_flops(accelerator.device, run.precision))
    optimizer = build_optimizer(task, config.optim)
    wrapped, prepared = launch.wrap(accelerator, task, optimizer, run=run, clip=config.optim.clip)
    found: dict[str, float] = {}
    hooks = Hooks(
        log=lambda step, values, ranks: found.update(values),
        evaluate=lambda step: None,
        checkpoint=lambda step: None,
        skip=lambda step, cause, losses, keys: print(f"{system} {size}: step {step} skipped, {cause}"),
        wants_stop=lambda: False,
    )
    train(
        task=wrapped,
        inner=task,
        optimizer=prepared,
        batches=cycle(batches),
        accelerator=accelerator,
        run=run,
        optim=config.optim,
        hooks=hooks,
        guard=Guard(run, accelerator),
        meter=meter,
    )
    return {
        "system": system,
        "size": size,
        "batch": args.batch,
        "precision": run.precision,
        "trained_parameters": sum(p.numel() for p in task.parameters() if p.requires_grad),
        "gflops_per_sample": flops / 1e9,
        "peak_tflops": meter.peak_flops / 1e12,
        **{name: found.get(name, float("nan")) for name in ("samples_per_second", "step_ms", "mfu", "memory_gb")},
    }


def measure_into(rows: Any, system: str, size: str, args: argparse.Namespace) -> None:
    """One process's work: its figures, or that the size does not fit."""
    try:
        rows.put(measure(system, size, args))
    except torch.OutOfMemoryError:
        rows.put({"system": system, "size": size, "batch": args.batch, "failed": "does not fit"})


def measure_apart(system: str, size: str, args: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own, whose memory is this size's alone."""
    context = multiprocessing.get_context("spawn")
    rows = context.SimpleQueue()
    process = context.Process(target=measure_into, args=(rows, system, size, args))
    process.start()
    process.join()
    if rows.empty():  # on a CPU the system kills what does not fit
        return {"system": system, "size": size, "batch": args.batch, "failed": f"exit code {process.exitcode}"}
    return cast(dict[str, Any], rows.get())


def row_text(row: dict[str, Any]) -> str:
    """A line of the table."""
    head = f"{row['system']:<11} {row['size']:<6} {row['batch']:>5}"
    if "failed" in row:
        return f"{head}  {row['failed']}"
    return (
        f"{head} {row['trained_parameters'] / 1e6:>8.1f} {row['gflops_per_sample']:>10.2f} "
        f"{row['samples_per_second']:>10.2f} {row['step_ms']:>9.0f} {row['mfu']:>7.1%} {row['memory_gb']:>7.2f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    names = ("debug", *SIZES)
    parser.add_argument(
        "--sizes", nargs="+", choices=names, default=names if gpu else names[:2], help="all; on a CPU debug and S"
    )
    parser.add_argument("--batch", type=int, default=64 if gpu else 4, help="pairs a step (64; on a CPU 4)")
    parser.add_argument(
        "--runs", type=int, default=20 if gpu else 3, help="steps that count, after as many that warm up"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 where it is fast")
    parser.add_argument("--compile", action="store_true", help="compile every block (run.compile)")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations (run.checkpointing)")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args(argv)
    print("system      size   batch  M params  GF/sample  samples/s   step ms     MFU  GB")
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    record = {"time": timestamp(), "machine": machine(), "torch": torch.__version__, "settings": settings}
    rows = []
    for system in args.systems:
        for size in args.sizes:
            rows.append(measure_apart(system, size, args))
            print(row_text(rows[-1]), flush=True)
            if args.json:  # after each size, so that what is measured is kept
                args.json.write_text(json.dumps(record | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
