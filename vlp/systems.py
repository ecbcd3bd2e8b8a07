"""`vlp systems`: every published system that is a config, and whether it still builds and trains.

A system is a file of `configs/systems/` with `SYSTEM` (its facts), `config()` (published size) and `tiny()`; ways of
matching (`configs/finetune/`, `vlp/matching.py`) follow behind.
"""

import argparse
import os
import pkgutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FEW = 6  # pairs of the trial batch
ALLOWED = 0.03  # how far a parameter count may lie from the published one without a reason

HEAD = """# Systems

Each row is a file of `configs/systems/`; `vlp systems --write docs/systems.md` writes this page from them, and
`vlp systems --check` builds each one and takes a step of its tiny form. Parameters are those of model and objectives,
in millions; a momentum teacher is not counted. No published figure was reproduced: that takes the published data.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("names", nargs="*", metavar="SYSTEM", help="systems to show (default: all)")
    parser.add_argument("--check", action="store_true", help="one forward and backward of each tiny form; 1 on a fault")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown")


def main(args: argparse.Namespace) -> int:
    """List, check or write. Raises ConfigError for a name that is no system."""
    from vlp import matching
    from vlp.config import ConfigError

    unknown = sorted(set(args.names) - set(names()) - set(matching.names()))
    if unknown:
        known = ", ".join(names() + matching.names())
        raise ConfigError(f"no system {', '.join(unknown)} in configs/systems or configs/finetune; there are {known}")
    faults = 0
    described = []
    for name in [name for name in args.names or names() if name in names()]:
        row = describe(name)
        described.append(row)
        trial = try_tiny(name) if args.check else ""
        faults += "without gradient" in trial
        print(f"{name:<16} {row.ours:7.1f} M {row.difference:>8}  {row.objectives:<40} {trial}", flush=True)
    ways = [matching.describe(name) for name in args.names or matching.names() if name in matching.names()]
    for way in ways:
        trial = try_tiny(way.name, "finetune") if args.check else ""
        faults += "without gradient" in trial
        print(f"{matching.line(way)} {trial}", flush=True)
    if args.write:
        part = args.write.with_name(f"{args.write.name}.part")
        part.write_text(page(described) + matching.table(ways))
        os.replace(part, args.write)
    return int(faults > 0)


def names() -> list[str]:
    """The systems: files of configs/systems."""
    import configs.systems

    return sorted(module.name for module in pkgutil.iter_modules(configs.systems.__path__))


@dataclass(frozen=True)
class Row:
    """What the table says of one system."""

    name: str
    facts: Any
    ours: float  # million parameters
    difference: str
    objectives: str


def describe(name: str) -> Row:
    """Build a system at its published size, without memory for its weights, and count."""
    import importlib

    import torch

    from vlp.config import load_config
    from vlp.training import build_task

    facts = importlib.import_module(f"configs.systems.{name}").SYSTEM
    config = load_config(f"configs.systems.{name}")
    config.teacher = None
    with torch.device("meta"):
        task = build_task(config, read_weights=False)
    ours = sum(p.numel() for p in task.parameters()) / 1e6
    share = None if facts.published is None else ours / facts.published - 1
    if (share is None or abs(share) > ALLOWED) and not facts.reason:
        raise ValueError(f"{name}: {ours:.1f} M parameters, published {facts.published}; SYSTEM.reason must say why")
    difference = "" if share is None else f"{100 * share:+.1f} %"
    objectives = ", ".join(type(objective).__name__ for objective in task.objectives.values())
    return Row(name, facts, ours, difference, objectives)


def try_tiny(name: str, folder: str = "systems") -> str:
    """One forward and backward of the tiny form on a batch of its true input types, and how it went."""
    import torch

    from vlp.config import load_config
    from vlp.training import build_task
    from vlp.trial import trial_batch

    config = load_config(f"configs.{folder}.{name}:tiny")
    task = build_task(config, read_weights=False)
    batch = trial_batch(task, config.data, FEW, int(task.model.text.vocab_size), 0)  # type: ignore[arg-type]
    start = time.perf_counter()
    torch.manual_seed(0)
    loss = task(batch)
    loss.value.backward()
    seconds = time.perf_counter() - start
    forgotten = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    if forgotten:
        return f"{len(forgotten)} parameters without gradient: {', '.join(forgotten[:3])}"
    return f"step of the tiny form: loss {float(loss.value.detach()):.3f}, {seconds:.2f} s"


def page(rows: list[Row]) -> str:
    """docs/systems.md."""
    lines = [HEAD, "| system | shape | objectives | parameters: here / published | data | state |", "|" + "---|" * 6]
    for row in rows:
        facts = row.facts
        published = "not given" if facts.published is None else f"{facts.published:g} ({facts.source})"
        count = f"{row.ours:.1f} / {published}" + (f", {row.difference}" if row.difference else "")
        reason = f". {facts.reason}" if facts.reason else ""
        link = f"[{facts.name}](../configs/systems/{row.name}.py), [{facts.paper}](https://arxiv.org/abs/{facts.paper})"
        lines.append(f"| {link} | {facts.shape} | {row.objectives} | {count}{reason} | {facts.data} | {facts.state} |")
    return "\n".join(lines) + "\n"
