"""The survey's tables anew: every way of matching trained on the same features with the same budget, and measured.

    python -m benchmarks.survey --data flickr8k --json benchmarks/results/survey-flickr8k.json
    python -m benchmarks.survey --data world --systems vsepp scan --steps 500

`flickr8k` reads tokens of frozen encoders (a ViT-S/14's patches, a BERT's words), made once and kept under --cache;
`world` region features and a recurrent text encoder that trains with the head. A run that was finished is not run
again: each leaves a file under --out, from which the table is made. Scoring time is that of the comparison alone, both
sides encoded, for 1,000 captions with the whole gallery. Seconds are of the processor, over all threads, so that other
work on the machine does not count. `--known FILE` takes over the runs of a table that was written with --json
elsewhere, if its settings are the same.
"""

import argparse
import importlib
import json
import os
import platform
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.survey_data import Store, store
from benchmarks.survey_runs import adopt, keep, settings, table
from configs import matching
from vlp.config import build, lazy
from vlp.data.mismatched import mismatched
from vlp.engine.optim import build_optimizer, learning_rate
from vlp.matching import names
from vlp.model import VLModel
from vlp.retrieval.ranks import retrieval_metrics
from vlp.similarity.kinds import kind_of
from vlp.task import Task
from vlp.text.stored import StoredText
from vlp.training import TrainConfig
from vlp.types import Stream
from vlp.vision.stored import StoredImage

FOLDERS = {"flickr8k": "data/flickr8k-features/train data/flickr8k/val", "world": "data/world/train data/world/test"}
VIEWS = {"flickr8k": 2, "world": 1}
FORMS = {"flickr8k": "frozen", "world": "tiny"}


def module_of(name: str) -> Any:
    """A file of configs/finetune."""
    return importlib.import_module(f"configs.finetune.{name}")


def settings_of(name: str, args: argparse.Namespace) -> TrainConfig:
    """A system's config on this data, its encoders replaced where their tokens are stored."""
    config: TrainConfig = getattr(module_of(name), FORMS[args.data])()
    if args.data == "flickr8k":
        kwargs = config.model.kwargs  # type: ignore[attr-defined]
        kwargs["vision"], kwargs["text"] = lazy(StoredImage)(), lazy(StoredText)()
        config.optim.lr_scale = {}
    return config


def train(config: TrainConfig, data: Store, seed: int, args: argparse.Namespace, name: str) -> tuple[Task, float]:
    """The trained task, and the processor seconds that its steps took.

    A config whose batches are smaller than asked for (its pairs cost more) takes more steps, for as many captions.
    """
    torch.manual_seed(seed)
    task: Task = Task(**build({"model": config.model, "objectives": config.objectives, "teacher": config.teacher}))
    optimizer = build_optimizer(task, config.optim)
    captions, size = max(config.data.captions, 1), min(args.batch, config.data.batch_size)
    steps = args.steps * args.batch // size
    task.train()
    started = time.process_time()
    for step in tqdm(range(1, steps + 1), desc=f"{name} seed {seed}", disable=True if args.quiet else None):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, config.optim) * group["scale"]
        batch = data.batch(draw(data, size, captions))
        batch.image_id = batch.image_id // args.views  # views of one photograph are no rivals of each other
        loss = task(batch)
        optimizer.zero_grad()
        loss.value.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), config.optim.clip)
        optimizer.step()
        task.after_step()
    return task.eval(), time.process_time() - started


def draw(data: Store, size: int, captions: int) -> Tensor:
    """`size` captions at random: `captions` each of so many pictures."""
    order = torch.randperm(len(data.text_image))
    order = order[data.text_image[order].argsort(stable=True)]  # by picture, at random within
    starts = torch.nonzero(torch.diff(data.text_image[order], prepend=torch.tensor([-1])))[:, 0]
    chosen = starts[torch.randperm(len(starts))[: size // captions]]
    return order[(chosen[:, None] + torch.arange(captions)).flatten()]


@torch.inference_mode()
def scores(task: Task, data: Store, size: int = 200) -> tuple[Tensor, float]:
    """(pictures, captions) scores of the model's one similarity, and the processor seconds of the comparison alone."""
    model, name = task.model, next(iter(task.model.similarities))
    similarity: Any = model.similarities[name]
    fused = kind_of(similarity) == "fused"
    prepare: Any = model.prepare_image if fused else similarity.image_tokens
    compare: Any = partial(fused_scores, model, name) if fused else similarity.token_scores
    images = [prepare(model.encode_image(batch)) for batch in data.blocks(size)]
    out, seconds = torch.empty(len(data.images), len(data.text_image)), 0.0
    for numbers, batch in data.caption_blocks(size):
        stream = Stream(batch.text_features, batch.text_mask) if batch.text_features is not None else None
        stream = stream or model.encode_text(batch.text_ids, batch.text_mask)
        texts = stream if fused else similarity.text_tokens(stream)
        started = time.process_time()
        out[:, numbers] = torch.cat([compare(some, texts) for some in images])
        seconds += time.process_time() - started
    return out, seconds


def fused_scores(model: VLModel, name: str, prepared: Any, texts: Stream) -> Tensor:
    """(pictures, captions) scores by a fused similarity, picture by picture of those `prepared`."""
    rows = torch.arange(len(prepared))[:, None].expand(-1, len(texts.mask))
    return torch.stack([model.match(texts, prepared, row, by=name) for row in rows])


def twin_accuracy(matrix: Tensor, data: Store, kind: int) -> float | None:
    """Per cent of the captions that score their own picture above its twin, a tie a half; None without such twins.

    A caption that does not tell the twins apart is a coin flip, so that 100 is out of reach where there are such.
    """
    captions = (data.twin_kind[data.text_image] == kind).nonzero()[:, 0]
    if not len(captions):
        return None
    owners = data.text_image[captions]
    own, other = matrix[owners, captions], matrix[data.twin[owners], captions]
    return 100 * float(((own > other).double() + 0.5 * (own == other)).mean())


def run(name: str, seed: int, train_data: Store, test_data: Store, args: argparse.Namespace) -> dict[str, Any]:
    """One system trained and measured."""
    config = settings_of(name, args)
    task, seconds = train(config, train_data, seed, args, name)
    matrix, scoring = scores(task, test_data)
    metrics = retrieval_metrics(matrix, test_data.text_image)
    facts = module_of(name).MATCHING
    return {
        "system": facts.name,
        "family": facts.family,
        "index": facts.index,
        "seed": seed,
        "image to text R@1": metrics["image to text"]["R@1"],
        "text to image R@1": metrics["text to image"]["R@1"],
        "rsum": metrics["all"]["rsum"],
        "twins that differ in a look": twin_accuracy(matrix, test_data, 1),
        "twins that differ in a relation": twin_accuracy(matrix, test_data, 2),
        "training CPU seconds": seconds,
        "scoring CPU seconds per 1,000 queries": 1000 * scoring / len(test_data.text_image),
        "parameters": sum(p.numel() for p in task.parameters() if p.requires_grad),
    }


def finished(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Run what no file tells of yet; the records by system."""
    budget = f"{args.steps}x{args.batch}-{args.limit or 'all'}-{args.test_limit or 'all'}"
    folder = args.out / f"{args.data}-{budget}-noise-{args.noise:g}"
    folder.mkdir(parents=True, exist_ok=True)
    for known in args.known:
        adopt(known, folder, args)
    found: dict[str, list[dict[str, Any]]] = {}
    stores: tuple[Store, Store] | None = None
    for name, seed in [(name, seed) for seed in range(args.seeds) for name in args.systems]:
        path = folder / f"{name}-{seed}.json"
        if not path.is_file():
            stores = stores or both_stores(args)
            record = run(name, seed, *stores, args)
            keep(path, record)
            print(f"{name} seed {seed}: R@1 {record['image to text R@1']:.1f} / {record['text to image R@1']:.1f}")
        found.setdefault(name, []).append(json.loads(path.read_text()))
    return found


def both_stores(args: argparse.Namespace) -> tuple[Store, Store]:
    """Training and test data."""
    stem = matching.FROZEN if args.data == "flickr8k" else matching.WORLD
    asked = [settings_of(name, args).data for name in args.systems]
    settings = asked[0]
    settings.use_tags = any(a.use_tags for a in asked)
    settings.use_graph = any(a.use_graph for a in asked)
    train_folder, test_folder = args.folders
    train_data = store(args.cache, train_folder, stem, settings, args.limit)
    train_data.text_image = mismatched(train_data.text_image, args.noise, views=args.views)
    return train_data, store(args.cache, test_folder, stem, settings, args.test_limit)


def main() -> None:
    """Train, measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(FOLDERS), default="world")
    parser.add_argument("--folders", nargs=2, metavar=("TRAIN", "TEST"), help="shard folders (default: data/...)")
    parser.add_argument("--systems", nargs="+", choices=names(), metavar="NAME", help="default: all that fit the data")
    parser.add_argument("--steps", type=int, default=1000, help="steps of every run (default 1000)")
    parser.add_argument("--batch", type=int, default=128, help="captions a step, at most the config's (default 128)")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each system (default 1)")
    parser.add_argument("--limit", type=int, help="only so many pictures to train on")
    parser.add_argument("--test-limit", type=int, help="only so many pictures to measure on")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="share of the training captions given to wrong pictures"
    )
    parser.add_argument(
        "--views", type=int, help="neighbouring views of a training picture (default: flickr8k 2, world 1)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/survey"), help="where finished runs are kept")
    parser.add_argument("--known", type=Path, nargs="+", default=[], metavar="FILE", help="tables whose runs are known")
    parser.add_argument("--cache", type=Path, default=Path("data/survey"), help="where stored tokens are kept")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    args.views = args.views or VIEWS[args.data]
    args.folders = args.folders or FOLDERS[args.data].split()
    args.systems = args.systems or [name for name in names() if hasattr(module_of(name), FORMS[args.data])]
    found = finished(args)
    print("\n".join(table(found)))
    if args.json:
        figures = {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
            "threads": torch.get_num_threads(),
            "settings": settings(args),
            "runs": found,
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
