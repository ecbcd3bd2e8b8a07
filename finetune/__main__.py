"""`accelerate launch -m finetune CONFIG init=CHECKPOINT [--resume] [--dry-run] [a.b=value ...]`, or `vlp finetune`."""

import argparse
import sys

from pretrain.__main__ import add_arguments
from vlp.config import ConfigError, load_config, override

__all__ = ["add_arguments", "main"]


def main(args: argparse.Namespace) -> int:
    """Train from a checkpoint's weights. Raises ConfigError without one."""
    config = override(load_config(args.config), args.overrides)
    if config.init is None:
        raise ConfigError("fine-tuning starts from a checkpoint: add init=runs/NAME/step-00001000, or init=runs/NAME")
    from vlp import training  # torch, timm and the rest: only once the request is sound

    training.run(config, resume=args.resume, dry_run=args.dry_run, source=args.config)
    return 0


if __name__ == "__main__":
    from vlp import cli

    sys.exit(cli.main(["finetune", *sys.argv[1:]]))
