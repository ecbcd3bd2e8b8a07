"""`vlp config CONFIG [a.b=value ...]`: the resolved config as JSON, as a checkpoint would record it."""

import argparse
import json

from vlp.config import load_config, override, to_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a Python file with config(), or FILE.py:FUNCTION")
    parser.add_argument("overrides", metavar="a.b=value", nargs="*", help="fields to change")


def main(args: argparse.Namespace) -> int:
    """Print the record."""
    print(json.dumps(to_json(override(load_config(args.config), args.overrides)), indent=2))
    return 0
