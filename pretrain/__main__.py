"""`accelerate launch -m pretrain CONFIG [--resume] [--dry-run] [a.b=value ...]`, also `vlp pretrain`."""

import argparse
import sys

from vlp.config import load_config, override


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a Python file with config(), or FILE.py:FUNCTION")
    parser.add_argument("overrides", metavar="a.b=value", nargs="*", help="fields to change, e.g. optim.lr=3e-4")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in run.out")
    parser.add_argument(
        "--dry-run", action="store_true", help="print config, parameters and FLOPs, try one step on a mock batch, stop"
    )


def main(args: argparse.Namespace) -> int:
    """Train."""
    config = override(load_config(args.config), args.overrides)
    from vlp import training  # torch, timm and the rest: only once the request is sound

    training.run(config, resume=args.resume, dry_run=args.dry_run, source=args.config)
    return 0


if __name__ == "__main__":
    from vlp import cli

    sys.exit(cli.main(["pretrain", *sys.argv[1:]]))
