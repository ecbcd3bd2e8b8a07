"""The two-stream training step against a plain implementation of the same losses, in one process.

    python -m benchmarks.step --json benchmarks/results/step.json
    python -m benchmarks.step --families --json benchmarks/results/families.json

First the two are shown to be equal: losses and every parameter's gradient, dropout off, fp32, hardest negatives.
Then both train on the same batches in turn, and the ratio of each pair of steps is taken; the median is the figure.
With `--families` instead: FLOPs and time of a step by its parts, for a system of each architecture.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.families import report as report_families
from benchmarks.plain import PlainStep
from configs.parts import two_stream
from vlp.config import build, lazy
from vlp.data.mock import caption_lengths
from vlp.engine.provenance import machine, timestamp
from vlp.objectives import negatives as negatives_module
from vlp.task import Task
from vlp.types import Batch


def tiny_task(queue_size: int) -> Task:
    """Width 192, ViT of 6 layers, text 3 + 3 layers, 224 px, patch 16, BERT's vocabulary, dropout off."""
    model, objectives, teacher = two_stream(
        vit="vit_tiny_patch16_224",
        image_size=224,
        width=192,
        text_layers=3,
        fusion_layers=3,
        heads=3,
        embed_dim=256,
        vit_options={"depth": 6},
        dropout=0.0,
        queue_size=queue_size,
        ramp_steps=1,
    )
    task: Task = build(lazy(Task)(model=model, objectives=objectives, teacher=teacher))
    task.teacher.steps += 1  # type: ignore[union-attr]  # soft targets at full weight
    return task


def make_batch(size: int, padded: int, lengths: str, seed: int) -> Batch:
    """Random pictures and ids; `lengths` is "coco" (ragged) or "full"."""
    g = torch.Generator().manual_seed(seed)
    n = caption_lengths(size, padded, g) if lengths == "coco" else torch.full((size,), padded)
    places = torch.arange(padded)[None]
    mask = places < n[:, None]
    ids = torch.randint(1000, 30522, (size, padded), generator=g) * mask
    words = torch.where(mask & (places > 0) & (places < n[:, None] - 1), places - 1, -1)
    return Batch(
        text_ids=ids,
        text_mask=mask,
        word_ids=words,
        image_id=torch.arange(size) + seed * size,
        caption_id=torch.arange(size),
        image=torch.randn(size, 3, 224, 224, generator=g),
    )


def cropped(batch: Batch) -> Batch:
    """The batch as our collation gives it: padded to its own longest caption."""
    n = int(batch.text_mask.sum(1).max())
    out = copy.copy(batch)
    out.text_ids, out.text_mask, out.word_ids = (x[:, :n] for x in (batch.text_ids, batch.text_mask, batch.word_ids))
    return out


class OurStep:
    """`Task` with fused AdamW, as the engine runs it."""

    def __init__(self, task: Task, lr: float = 1e-4) -> None:
        self.task = task
        self.optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=lr, fused=True)

    def step(self, batch: Batch) -> None:
        """Forward, backward, optimizer, momentum update, queue."""
        value = self.task(cropped(batch)).value
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self.task.after_step()


def check_equal(task: Task, batch: Batch, fused_attention: bool) -> dict[str, float]:
    """Losses of both and the largest relative difference of a gradient. Raises SystemExit above 1e-3."""

    def hardest(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        blocked = scores.masked_fill(ids[:, None] == ids[None], float("-inf"))
        return blocked.argmax(1), torch.ones(len(ids), dtype=torch.bool)

    drawn = negatives_module.sample_negatives
    negatives_module.sample_negatives = hardest
    ours, plain = copy.deepcopy(task), copy.deepcopy(task)
    torch.manual_seed(0)  # both draw their MLM masks on this rectangle
    loss = ours(cropped(batch))
    negatives_module.sample_negatives = drawn
    loss.value.backward()
    torch.manual_seed(0)
    losses, _ = PlainStep(plain, fused_attention=fused_attention, argmax=True).losses(batch)
    sum(losses.values(), torch.zeros(())).backward()
    theirs = dict(plain.named_parameters())
    worst, name = 0.0, ""
    for key, parameter in ours.named_parameters():
        if parameter.requires_grad:
            a, b = parameter.grad, theirs[key].grad
            assert a is not None, key
            assert b is not None, key
            difference = float((a - b).norm() / b.norm().clamp(min=1e-12))
            worst, name = max((worst, name), (difference, key))
    out = {
        f"{k}_{who}": float(v)
        for who, d in (("ours", loss.report), ("plain", losses))
        for k, v in d.items()
        if k in losses
    }
    off = max(abs(out[f"{k}_ours"] - out[f"{k}_plain"]) / abs(out[f"{k}_plain"]) for k in losses)
    if worst > 1e-3 or off > 1e-3:
        raise SystemExit(f"not equal: gradients differ by {worst:.2e} ({name}), losses by {off:.2e}")
    return out | {"largest_gradient_difference": worst, "largest_loss_difference": off}


def measure(task: Task, args: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of wall and CPU time for each pair of steps, warm-up left out."""
    ours = OurStep(copy.deepcopy(task))
    plain = PlainStep(copy.deepcopy(task), fused_attention=args.fused_attention)
    pairs = []
    for i in range(args.warmup + args.runs):
        batch = make_batch(args.batch, args.padded, args.lengths, seed=i + 1)
        timed: dict[str, float] = {}
        for name, side in (("ours", ours), ("plain", plain)) if i % 2 else (("plain", plain), ("ours", ours)):
            wall, cpu = time.perf_counter(), time.process_time()
            side.step(batch)
            timed |= {f"{name}_wall": time.perf_counter() - wall, f"{name}_cpu": time.process_time() - cpu}
        pairs.append(timed)
    return pairs[args.warmup :]


def main() -> None:
    """Check, measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="pairs a step (default 16)")
    parser.add_argument("--padded", type=int, default=32, help="length that the plain step pads to (default 32)")
    parser.add_argument("--lengths", choices=("coco", "full"), default="coco", help="ragged captions, or all full")
    parser.add_argument("--queue", type=int, default=4096, help="feature queue (default 4096)")
    parser.add_argument("--runs", type=int, default=15, help="pairs of steps that count (default 15)")
    parser.add_argument("--warmup", type=int, default=3, help="pairs of steps that do not (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--fused-attention", action="store_true", help="let the plain step use fused attention too")
    parser.add_argument("--families", action="store_true", help="a step of each architecture by its parts")
    parser.add_argument("--published", action="store_true", help="with --families, at published size, not tiny")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.families:
        rows = {
            "time": timestamp(),
            "machine": machine(),
            "published_size": args.published,
            "rows": report_families(args),
        }
        if args.json:
            args.json.write_text(json.dumps(rows, indent=2) + "\n")
        return
    task = tiny_task(args.queue)
    # The equality batch holds one caption of full length, so both draw their masks on rectangles of one width.
    equality_batch = make_batch(args.batch, args.padded, args.lengths, seed=0)
    longest = int(equality_batch.text_mask.sum(1).max())
    equality_batch = cropped(equality_batch)
    equal = check_equal(task, equality_batch, args.fused_attention)
    pairs = measure(task, args)
    figures: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "settings": {k: v for k, v in vars(args).items() if k != "json"} | {"equality_length": longest},
        "equality": equal,
    }
    for clock in ("wall", "cpu"):
        ratios = [p[f"plain_{clock}"] / p[f"ours_{clock}"] for p in pairs]
        figures[clock] = {
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "ours_samples_per_second": args.batch / statistics.median(p[f"ours_{clock}"] for p in pairs),
            "plain_samples_per_second": args.batch / statistics.median(p[f"plain_{clock}"] for p in pairs),
        }
    report(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def report(figures: dict[str, Any]) -> None:
    """Print the table."""
    e = figures["equality"]
    print(f"{'':6}{'plain':>12}{'ours':>12}")
    for name in ("itc", "itm", "mlm"):
        print(f"{name:6}{e[f'{name}_plain']:12.5f}{e[f'{name}_ours']:12.5f}")
    print(f"largest relative gradient difference {e['largest_gradient_difference']:.1e}\n")
    print(f"{'clock':6}{'plain/s':>10}{'ours/s':>10}{'ratio':>8}{'min':>8}{'max':>8}")
    for clock in ("wall", "cpu"):
        f = figures[clock]
        print(
            f"{clock:6}{f['plain_samples_per_second']:10.1f}{f['ours_samples_per_second']:10.1f}"
            f"{f['ratio']:8.2f}{f['ratio_min']:8.2f}{f['ratio_max']:8.2f}"
        )


if __name__ == "__main__":
    main()
