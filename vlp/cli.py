"""One door: `vlp COMMAND ...`. A command's module is imported when it is chosen, so that `vlp --help` is instant."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command and the module that has its `add_arguments(parser)` and `main(args) -> int`."""

    module: str
    help: str
    example: str


COMMANDS = {
    "pretrain": Command(
        "pretrain.__main__",
        "pre-train a system from a config",
        "vlp pretrain configs/debug.py run.out=runs/debug\n"
        "vlp pretrain configs/debug.py --dry-run\n"
        "accelerate launch -m pretrain configs/debug.py --resume",
    ),
    "finetune": Command(
        "finetune.__main__",
        "fine-tune a checkpoint for retrieval",
        "vlp finetune configs/finetune/debug.py init=runs/debug run.out=runs/debug-finetuned",
    ),
    "evaluate": Command(
        "finetune.evaluate",
        "measure retrieval with a checkpoint",
        "vlp evaluate runs/debug --data data/world/test",
    ),
    "export": Command(
        "vlp.interop.export",
        "write a checkpoint as a folder for vlp.load",
        "vlp export runs/debug exported/debug",
    ),
    "search": Command(
        "vlp.retrieval.search",
        "find pictures of a folder by a sentence",
        'vlp search exported/debug --images photos "a dog that runs on the beach"',
    ),
    "config": Command(
        "vlp.show_config",
        "print a resolved config as JSON",
        "vlp config configs/debug.py optim.lr=3e-4",
    ),
    "systems": Command(
        "vlp.systems",
        "list the published systems, check that they build and train",
        "vlp systems\nvlp systems --check uniter albef",
    ),
    "checkpoint inspect": Command(
        "vlp.engine.inspection", "show what is in a checkpoint", "vlp checkpoint inspect runs/debug"
    ),
    "checkpoint verify": Command(
        "vlp.engine.inspection", "check checkpoints against their checksums", "vlp checkpoint verify runs/debug"
    ),
    "checkpoint average": Command(
        "vlp.engine.inspection",
        "write the mean of several checkpoints' weights",
        "vlp checkpoint average runs/debug --out runs/debug-averaged",
    ),
    "checkpoint consolidate": Command(
        "vlp.engine.consolidation",
        "write one safetensors file from a checkpoint of any launch, or from shards",
        "vlp checkpoint consolidate runs/debug model.safetensors",
    ),
    "runs": Command("vlp.engine.runs", "list the runs in a folder", "vlp runs runs"),
    "runs plot": Command("vlp.engine.runs", "list the runs in a folder and draw their curves", "vlp runs plot runs"),
    "data synthesize": Command(
        "data_tools.synthesize",
        "make the synthetic world",
        "vlp data synthesize data/world",
    ),
    "data coco": Command("data_tools.karpathy", "COCO pictures and Karpathy JSON to shards", "vlp data coco --help"),
    "data flickr": Command(
        "data_tools.karpathy", "Flickr8k or 30k pictures and Karpathy JSON to shards", "vlp data flickr --help"
    ),
    "data karpathy": Command(
        "data_tools.karpathy", "any pictures with a Karpathy-layout JSON to shards", "vlp data karpathy --help"
    ),
    "data albef": Command(
        "data_tools.albef", "ALBEF's JSON and pictures to shards", "vlp data albef coco.json images/ shards/coco"
    ),
    "data table": Command(
        "data_tools.table",
        "CSV, TSV or parquet of paths and captions to shards",
        "vlp data table captions.csv images/ shards/mine --caption-column title",
    ),
    "data huggingface": Command(
        "data_tools.huggingface", "a `datasets` folder on disk to shards", "vlp data huggingface folder/ shards/mine"
    ),
    "data img2dataset": Command(
        "data_tools.index",
        "tars of img2dataset or any WebDataset writer, indexed in place",
        "vlp data img2dataset cc3m/",
    ),
    "data index": Command(
        "data_tools.index", "verify or rebuild an index of shards", "vlp data index shards/coco/train"
    ),
    "data check": Command(
        "data_tools.check",
        "look at every sample, name what is bad, repair",
        "vlp data check shards/cc3m --repair shards/cc3m-good",
    ),
    "data pack": Command(
        "data_tools.pack",
        "shards anew: sizes, pictures, order, some left out",
        "vlp data pack shards/cc3m shards/cc3m-256 --resize 256 --bytes-per-shard 500MB",
    ),
    "data stats": Command(
        "data_tools.stats", "captions, words, resolutions; a page to look at", "vlp data stats shards/cc3m"
    ),
    "data overlap": Command(
        "data_tools.overlap",
        "evaluation pictures among training pictures",
        "vlp data overlap shards/laion shards/coco/test",
    ),
    "data regions": Command(
        "data_tools.regions",
        "region features from a detector, a grid or files",
        "vlp data regions shards/coco/train out --features genome_36.tsv",
    ),
    "data features": Command(
        "data_tools.features", "cache the features of a frozen vision prefix", "vlp data features --help"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. 0 = done, 1 = stopped by a fault of the run, 2 = a mistake in the request, 130 = interrupted.

    A training that a signal stopped, saved and ready for --resume, ends by SystemExit with 75 (`engine/signals.py`).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else "".join(words[:1])
    if name not in COMMANDS:
        return _overview(words)
    command = COMMANDS[name]
    try:
        return _run(name, command, words[len(name.split()) :])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, ArithmeticError) as error:
        if not _is_ours(error):
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _run(name: str, command: Command, words: list[str]) -> int:
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(
        prog=f"vlp {name}",
        description=command.help,
        epilog=f"example:\n  {command.example.replace(chr(10), chr(10) + '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(verb=name.split()[-1])
    # Intermixed, so that options may stand between CONFIG and its a.b=value.
    return int(module.main(parser.parse_intermixed_args(words)) or 0)


def _overview(words: list[str]) -> int:
    """Help, the error for an unknown command, or the list of a command's verbs (`vlp data`, `vlp checkpoint`)."""
    verbs = words and any(name.startswith(f"{words[0]} ") for name in COMMANDS)
    prefix = f"{words[0]} " if verbs else ""
    shown = {name.removeprefix(prefix): c.help for name, c in COMMANDS.items() if name.startswith(prefix)}
    parser = argparse.ArgumentParser(
        prog=f"vlp {prefix}".strip(),
        description="Pre-train vision-language transformers, fine-tune them for retrieval, evaluate and export them.",
        epilog="`vlp COMMAND --help` tells more, with an example.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in shown.items():
        commands.add_parser(name, help=text)
    parser.parse_args([w for w in words[1 if prefix else 0 :]])
    return 0


def _is_ours(error: BaseException) -> bool:
    """Errors that this project defines tell file, key and remedy; any other is a bug and keeps its traceback."""
    return type(error).__module__.split(".")[0] in ("vlp", "data_tools", "finetune", "pretrain")


if __name__ == "__main__":
    sys.exit(main())
