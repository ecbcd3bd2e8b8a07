"""Image-text retrieval of a checkpoint: a table on screen, a JSON beside the checkpoint.

    accelerate launch -m finetune.evaluate runs/flickr30k --data shards/flickr30k/test
    vlp evaluate runs/vilt --data shards/flickr30k/test --first-stage runs/albef --k 32

One similarity of the checkpoint ranks everything (or one of --first-stage, another checkpoint), a second one orders its
top k anew: by default the cheapest and the dearest ("itc", "itm"), else --first and --rerank. A checkpoint that has
only one that looks at pairs, or --full, has every pair scored. Recalls are expectations over random orders of tied
scores; the share of ties is shown.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlp.retrieval.config import EvaluationConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `vlp evaluate`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkpoint", type=Path, help="a checkpoint folder, or a run folder (its newest checkpoint)")
    parser.add_argument("--data", type=Path, required=True, help="folder of indexed shards to retrieve in")
    parser.add_argument("--first", metavar="NAME", help="the similarity that ranks everything (itc, late, ...)")
    parser.add_argument("--rerank", metavar="NAME", help="the similarity that orders the best of it anew (itm, ...)")
    parser.add_argument("--k", type=int, help="candidates re-ranked for each query; 0 = first stage alone")
    parser.add_argument("--ceiling", type=float, help="choose k: the smallest with first-stage R@k of this share")
    parser.add_argument("--mix", type=float, help="re-rank by the second score + MIX * the first one's logit")
    parser.add_argument("--bank", help="training shards whose queries take hubs down in the first stage")
    parser.add_argument("--full", action="store_true", help="score every pair by the second similarity")
    parser.add_argument("--first-stage", type=Path, help="another checkpoint that makes the shortlist")
    parser.add_argument(
        "--features", action="store_true", help="read cached tokens, made by `vlp data features` with this prefix"
    )
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    parser.add_argument("--fold", type=int, help="also figures over folds of so many pictures (COCO 1K: 1000)")
    parser.add_argument(
        "--judgments",
        help="folder of ECCV Caption's lists (NAME_image_to_caption.json, ...) or CxC's sits_SPLIT.csv, ...",
    )
    parser.add_argument("--labels", help="COCO's instances_SPLIT.json, for plausible matches (PMRP)")
    parser.add_argument("--resamples", type=int, help="samples for intervals and correlations; 0 = none")
    parser.add_argument("--batch-size", type=int, help="pictures or captions encoded at once")
    parser.add_argument(
        "--precision", choices=("no", "bf16"), default="no", help="bf16: encode and fuse under autocast"
    )
    parser.add_argument("--json", type=Path, help="where to write the figures (default: beside the checkpoint)")


def main(args: argparse.Namespace) -> int:
    """Evaluate, print, write; under a launcher on all processes, which get the same figures whatever their number."""
    import torch

    from vlp.data.evaluation import EvaluationSet
    from vlp.engine.checkpoint import resolve
    from vlp.engine.launch import start_evaluation
    from vlp.retrieval.evaluate import evaluate
    from vlp.retrieval.shares import Shares
    from vlp.training import load_model, open_bank

    device, is_main = start_evaluation()
    model, config, tokenizer = load_model(args.checkpoint)
    settings = settings_of(args, config.evaluation)
    data = replace(config.data, use_features=args.features)
    # the bank is the training set, so cached tokens serve where they are
    bank_config = replace(config, data=replace(config.data, use_features=True), evaluation=settings)
    dataset = EvaluationSet(data, args.data, tokenizer, settings.limit)
    first_stage = None
    if args.first_stage is not None:
        other, other_config, other_tokenizer = load_model(args.first_stage)
        other_data = replace(other_config.data, use_features=args.features)
        first_stage = (other.to(device), EvaluationSet(other_data, args.data, other_tokenizer, settings.limit))
        bank_config, tokenizer = replace(bank_config, data=replace(other_data, use_features=True)), other_tokenizer
    bank, shares = open_bank(bank_config, tokenizer), Shares.of_launch()
    with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
        report = evaluate(model.to(device), dataset, settings, device, first_stage, bank, is_main, shares)
    if is_main:
        print(report.table())
        place = resolve(args.checkpoint)
        record = {"checkpoint": place.name, "precision": args.precision} | report.to_json()
        write(args.json or place / f"evaluation-{args.data.name}.json", record)
    return 0


def settings_of(args: argparse.Namespace, settings: "EvaluationConfig") -> "EvaluationConfig":
    """The checkpoint's settings with what the command line changes; a limit for training's evaluations is not kept."""
    given = {name: getattr(args, name) for name in ("first", "rerank", "k", "mix", "limit", "bank", "batch_size")}
    given |= {name: getattr(args, name) for name in ("fold", "judgments", "labels", "resamples")}
    given |= {"wanted_ceiling": args.ceiling, "full": args.full or (settings.full and args.first_stage is None)}
    return replace(settings, **{"limit": None} | {name: value for name, value in given.items() if value is not None})


def write(path: Path, record: object) -> None:
    """Write beside, then rename."""
    import json
    import os

    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(part, path)
    print(f"written to {path}")


if __name__ == "__main__":
    from vlp import cli

    sys.exit(cli.main(["evaluate", *sys.argv[1:]]))
