"""``twigkit hello``: writes a tiny model of the family, to try things on."""

from __future__ import annotations

import argparse
from pathlib import Path

from twigkit import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--out", default="base", help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Write the model.

    Raises:
        InputError: If the folder is there already.
    """
    folder = Path(args.out)
    if folder.exists():
        raise InputError(f"{folder} exists; name a new folder with --out")
    from twigkit_hello.model import tiny_model

    tiny_model(args.seed).save_pretrained(folder)
    print(f"a tiny model of the family is in {folder}")
    return 0
