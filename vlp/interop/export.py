"""`vlp export CHECKPOINT OUT`: a checkpoint as a folder that `vlp.load` reads and that needs no other file on disk."""

import argparse
from pathlib import Path

DTYPES = ("fp32", "fp16", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a checkpoint, or a run for its newest one")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; an export that is there is replaced")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the stored weights; fp16 halves the file")
    parser.add_argument("--name", help="the model's name on its card (default: the name of OUT)")


def main(args: argparse.Namespace) -> int:
    """Write the export and say what is in it."""
    from vlp.interop.folder import export  # torch and timm: only once the request is sound

    card = export(args.checkpoint, args.out, dtype=args.dtype, name=args.name or args.out.resolve().name)
    print(
        f"{args.out}: {card.parameters:,} parameters, {args.dtype}, {len(card.evaluations)} evaluation(s) on the card"
    )
    print(f'use it:  model = vlp.load("{args.out}")')
    print(f'         vlp search {args.out} --images FOLDER "a sentence"')
    return 0
