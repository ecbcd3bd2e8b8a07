"""FLOPs and time of a training step by its parts, for a system of each architecture (`benchmarks.step --families`)."""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.learned import BATCH
from vlp.config import load_config
from vlp.model import VLModel
from vlp.task import Task
from vlp.training import TrainConfig, build_task
from vlp.trial import trial_batch
from vlp.types import Batch

FAMILIES = {
    "vilt": "one stream, patches",
    "uniter": "one stream, regions",
    "albef": "two streams, text reads image",
    "meter": "two streams, co-attention",
    "clip": "dual encoder",
    "filip": "dual encoder, late interaction",
}
PARTS = ("image", "text", "fusion", "teacher", "losses", "backward", "optimizer")
SEEING = ("forward", "hidden_features", "parsed")  # ways into a vision part
READINGS = ("prepare", "forward", "summarize", "read", "decode")  # and into a fusion
Clock = Callable[[], float]


class Split:
    """Adds up what passes on a clock (seconds, or FLOPs so far) inside each part of a task."""

    def __init__(self, task: Task, clock: Clock) -> None:
        self.clock = clock
        self.parts: dict[str, float] = defaultdict(float)
        self.inside = False
        self.wrapped: list[tuple[Any, str]] = []
        self._watch(task.model)
        if task.teacher is not None:
            self._watch(task.teacher.model, "teacher")

    def _watch(self, model: VLModel, name: str = "") -> None:
        for part, methods in (("vision", SEEING), ("text", ("forward",)), ("fusion", READINGS)):
            module = getattr(model, part)
            for method in methods:
                if hasattr(module, method):
                    self._wrap(module, method, name or ("image" if part == "vision" else part))

    def _wrap(self, module: Any, method: str, name: str) -> None:
        inner = getattr(module, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.inside:  # one way in that takes another
                return inner(*args, **kwargs)
            self.inside, start = True, self.clock()
            try:
                return inner(*args, **kwargs)
            finally:
                self.parts[name] += self.clock() - start
                self.inside = False

        setattr(module, method, timed)
        self.wrapped.append((module, method))

    def close(self) -> None:
        """Give the parts their own methods back."""
        for module, method in self.wrapped:
            delattr(module, method)

    def step(self, task: Task, batch: Batch, optimizer: torch.optim.Optimizer | None) -> dict[str, float]:
        """One step; the forward pass outside of all parts is "losses": heads, similarities, negatives and losses."""
        self.parts.clear()
        start = self.clock()
        value = task(batch).value
        forward = self.clock()
        value.backward()
        backward = self.clock()
        if optimizer is not None:
            optimizer.step()
            task.after_step()
        task.discard_step()
        task.zero_grad(set_to_none=True)
        inside = sum(self.parts.values())
        rest = {
            "losses": forward - start - inside,
            "backward": backward - forward,
            "optimizer": self.clock() - backward,
        }
        return dict(self.parts) | rest


def flops(task: Task, batch: Batch) -> dict[str, float]:
    """FLOPs a pair of each part, a multiply-add as 2."""
    with FlopCounterMode(display=False) as counter:
        split = Split(task, lambda: float(counter.get_total_flops()))
        found = split.step(task, batch, None)
    split.close()
    return {name: value / len(batch) for name, value in found.items()}


def seconds(task: Task, batches: list[Batch]) -> dict[str, float]:
    """Median seconds of each part, the first step left out."""
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-4, fused=True)
    split = Split(task, time.perf_counter)
    steps = [split.step(task, batch, optimizer) for batch in batches]
    split.close()
    return {name: median(step.get(name, 0.0) for step in steps[1:]) for name in PARTS}


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A system's figures, at its tiny or its published size."""
    config: TrainConfig = load_config(f"configs.systems.{name}" + ("" if args.published else ":tiny"))
    size = args.batch if args.published else BATCH
    task = build_task(config, read_weights=False).train()
    words = int(task.model.text.vocab_size)  # type: ignore[arg-type]
    batches = [trial_batch(task, config.data, size, words, seed) for seed in range(args.runs + 1)]
    torch.manual_seed(0)
    return {
        "system": name,
        "family": FAMILIES[name],
        "batch": size,
        "flops_per_pair": flops(task, batches[0]),
        "seconds": seconds(task, batches),
    }


def report(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every family, printing a table as it grows."""
    print(f"{'':40}{'total':>9}" + "".join(f"{part:>10}" for part in PARTS))
    rows = []
    for name, family in FAMILIES.items():
        rows.append(row := measure(name, args))
        for what, unit, scale in (("flops_per_pair", "MFLOP a pair", 1e-6), ("seconds", "ms a step", 1e3)):
            parts = row[what]
            total = sum(parts.values())
            shares = "".join(f"{100 * parts.get(part, 0.0) / total:9.1f}%" for part in PARTS)
            head = f"{name}: {family}" if what == "flops_per_pair" else ""
            print(f"{head:40}" if head else f"{'':40}", end="")
            print(f"{total * scale:9.1f}{shares}  {unit}", flush=True)
    return rows
