"""Does each system's tiny form learn the synthetic world? Trains them one after another and measures.

    vlp data synthesize data/world --train 16000 --size 48
    python -m benchmarks.learn --world data/world --only uniter albef --json FILE

A run goes on from its newest checkpoint, and a system that is measured is not measured again (`OUT/NAME/learned.json`)
unless `--measure-again` asks for it, which trains nothing and passes over systems without a checkpoint. `--known FILE`
takes over the rows of a table that was written with --json elsewhere (beside `--measure-again` those of systems without
a checkpoint); a row says how many steps it took.
All share one recipe beside what their configs say: `--steps` steps, and 40 % of the words masked where words are, which
a small world needs (docs/decisions.md); Kaleido-BERT's own masking hides as many of those that name things. A system
that was published with a pre-trained network for pictures starts with one that a small dual encoder has learned on the
same world (STARTS): CLIP's vision transformer, or, as NAME-late or NAME-twins, a system's own network, trained for
`--start-steps` by late interaction (FILIP), which teaches each cell the words that it shows. What each figure says:
benchmarks/learned.py. Asked for are 30 points of colour and shape words between the true and another picture, 90 % of
matchings, masked vision better than blind, and 60 % of the object words pointing to their box where a system claims
alignment.
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.learned import batches, measure
from vlp import training
from vlp.config import load_config
from vlp.data.tokenizer import Tokenizer
from vlp.engine import checkpoint
from vlp.engine.provenance import machine, timestamp
from vlp.engine.session import MODEL
from vlp.engine.tensors import read_tensors, write_tensors
from vlp.objectives.alignment_masking import AlignmentMasking
from vlp.objectives.mlm import MLM
from vlp.systems import names
from vlp.task import Task
from vlp.training import TrainConfig

ASKED = {"words points": 30.0, "told points": 30.0, "matching": 0.9, "alignment": 0.6}
MORE_IS_BETTER = ("accuracy", "giou")  # how figures end that are to be above their blind one; losses are to be below
MASKED = 0.4
LEARNED = "learned.json"
LATE, TWINS = "-late", "-twins"  # behind a system's name: a dual encoder around its vision part
STARTS = {  # the run that gives the parts; none: its vision transformer as a file, whose blocks read words too
    "vilt": ("clip", []),
    "meter": ("clip", ["vision"]),
    "xvlm": ("xvlm-late", ["vision"]),
    "blip": ("clip", ["vision"]),
    "pixelbert": ("pixelbert-late", ["vision"]),
    "soho": ("soho-twins", ["vision.grid=vision"]),
    "pim": ("pim-late", ["vision"]),
    "kdvlp": ("kdvlp-late", ["vision"]),
    "e2evlp": ("e2evlp-late", ["vision"]),
    "fast_slow": ("fast_slow-late", ["vision"]),
    "fashionbert": ("fashionbert-late", ["vision"]),
    "kaleido_bert": ("fashionbert-late", ["vision.network", "vision.projection", "vision.norm"]),
}


def recipe(name: str, args: argparse.Namespace) -> TrainConfig:
    """The tiny form of a system on the world, with what all systems share."""
    system = name.removesuffix(LATE).removesuffix(TWINS)
    config: TrainConfig = load_config(f"configs.systems.{system}:tiny")
    config.run.steps = args.steps
    if name != system:
        config = starter(config, alike=name.endswith(TWINS))
        config.run.steps = args.start_steps
    config.data.train, config.data.val = str(args.world / "train"), ""
    config.run.out = str(args.out / name)
    config.run.checkpoint_every, config.run.mfu, config.run.threads = 250, False, args.threads
    for objective in config.objectives.values():
        recorded: Any = objective
        if isinstance(recorded.target, type) and issubclass(recorded.target, MLM) and not _named_first(recorded):
            recorded.kwargs["probability"] = MASKED
    return config


def _named_first(mlm: Any) -> bool:
    """Whether words that name things are masked more often anyhow: Kaleido-BERT masks 15 % of all and 30 % of those."""
    return getattr(mlm.kwargs.get("masking"), "target", None) is AlignmentMasking


def starter(config: TrainConfig, alike: bool) -> TrainConfig:
    """Late interaction around the vision part of a system, or the grid beneath its dictionary; it sees every cell.

    `alike` as FILIP's tiny form learns, from batches of twins and a low first temperature; else from random batches and
    the published temperature, which serves what networks of patches begin (docs/decisions.md)."""
    made: TrainConfig = load_config("configs.systems.filip:tiny")
    parts = cast(Any, made.model).kwargs
    if not alike:
        parts["text"].kwargs["layers"] = 3
        parts["similarities"]["late"].kwargs["temperature"] = 0.07
        made.data.batch_size, made.data.captions, made.data.block = 32, 0, 1
    vision = cast(Any, config.model).kwargs["vision"]
    vision = vision.kwargs.get("grid", vision)
    if "sample" in vision.kwargs:
        vision.kwargs["sample"] = 0
    parts["vision"] = vision
    return made


def trained(config: TrainConfig) -> tuple[Task, int]:
    """The task of the newest checkpoint of a run, its heads included, and the step."""
    folder = checkpoint.resolve(config.run.out)
    task = training.build_task(config, read_weights=False)
    task.load_state_dict(read_tensors(folder / MODEL))
    return task, int(checkpoint.read_state(folder)["step"])


def learn(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train a system, or go on, and measure it; or read what was measured. With `--measure-again` the newest checkpoint
    is measured, and nothing trained; without a checkpoint the row is empty."""
    config = recipe(name, args)
    place = Path(config.run.out) / LEARNED
    row: dict[str, Any] = json.loads(place.read_text()) if place.is_file() else {}
    if row and not args.measure_again:
        return row
    if args.measure_again and checkpoint.newest(place.parent) is None:
        return {}
    if not args.measure_again:
        row = train(name, config, args)
    task, steps = trained(config)
    row |= {"system": name, "steps": steps, "figures": figures(task, config, args)}
    part = place.with_name(f"{LEARNED}.part")
    part.write_text(json.dumps(row, indent=2) + "\n")
    os.replace(part, place)
    return row


def train(name: str, config: TrainConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on, with what is given to begin with; what a row says of it."""
    row: dict[str, Any] = {}
    if name in STARTS:
        source, parts = STARTS[name]
        learn(source, args)
        start_with(config, args.out / source, parts)
        row["starts with"] = {"run": source, "parts": parts}
    start = time.perf_counter()
    training.run(config, resume=True)
    return row | {"minutes_of_the_last_start": round((time.perf_counter() - start) / 60, 1)}


def start_with(config: TrainConfig, run: Path, parts: list[str]) -> None:
    """Let a config start with parts of a finished run's model, or with its vision transformer as timm's file."""
    if parts:
        config.init, config.init_parts = str(run), parts
        return
    file, model = run / "vit.safetensors", cast(Any, config.model)
    write_tensors(file, read_tensors(checkpoint.resolve(run) / MODEL, prefix="model.vision.vit."))
    for part in ("vision", "fusion"):
        model.kwargs[part].kwargs["weights"] = str(file)


def figures(task: Task, config: TrainConfig, args: argparse.Namespace) -> dict[str, float]:
    """What a task has learned, on the world's unseen pictures."""
    tokenizer = Tokenizer.from_folder(args.world / "train")
    return measure(task, tokenizer, partial(batches, config.data, str(args.world / "val"), tokenizer, args.pictures))


def verdicts(figures: dict[str, float]) -> dict[str, bool]:
    """For each figure that something is asked of, whether it is reached."""
    found = {name: figures[name] >= least for name, least in ASKED.items() if name in figures}
    for name in figures:
        if f"{name} blind" in figures:
            better, than = figures[name], figures[f"{name} blind"]
            found[name] = better > than if name.endswith(MORE_IS_BETTER) else better < than
    return found


def shown(row: dict[str, Any]) -> str:
    """A row of the table: each figure, what it is held against, and a ! where too little was learned."""
    figures, told = row["figures"], []
    reached = verdicts(figures)
    for name, value in figures.items():
        if not name.endswith((" blind", " with picture", " with another")):
            blind = f" (blind {figures[f'{name} blind']:.3g})" if f"{name} blind" in figures else ""
            told.append(f"{name} {value:.3g}{blind}{'' if reached.get(name, True) else ' !'}")
    start = f" (starts with {row['starts with']['run']}'s network)" if "starts with" in row else ""
    return f"{row['system']:<14}{row['steps']:>6}  {', '.join(told)}{start}"


def main() -> None:
    """Learn, print a table as it grows, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("data/world"), help="a synthetic world of 48 px pictures")
    parser.add_argument("--out", type=Path, default=Path("runs/learn"), help="folder of the runs (default runs/learn)")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names(), help="these systems (default: all)")
    parser.add_argument("--steps", type=int, default=4000, help="steps of 32 pairs, FILIP and ViLT 64 (default 4000)")
    parser.add_argument(
        "--start-steps", type=int, default=2000, help="steps of what a system starts with (default 2000)"
    )
    parser.add_argument("--pictures", type=int, default=480, help="unseen pictures to measure on (default 480)")
    parser.add_argument("--measure-again", action="store_true", help="measure the newest checkpoints, train nothing")
    parser.add_argument("--known", type=Path, nargs="+", default=[], metavar="FILE", help="tables whose rows are known")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tables = [json.loads(path.read_text()) for path in args.known]
    known = {row["system"]: row for table in tables for row in table["rows"]}
    rows = []
    for name in args.only or names():
        row = ({} if args.measure_again else known.get(name)) or learn(name, args) or known.get(name)
        print(shown(row) if row else f"{name:<14} no checkpoint", flush=True)
        rows += [row] if row else []
        if args.json:
            record = {"time": timestamp(), "machine": machine(), "rows": rows}
            args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
