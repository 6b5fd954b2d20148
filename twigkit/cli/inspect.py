"""``twigkit inspect``: the shape of any base model, and a run to start from."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "base", help="folder or Hub id of the base model, or 'demo'; only its config is read"
    )
    parser.add_argument("--revision", help="revision of the base on the Hub")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the shape of a base model.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        CheckpointError: If its configuration cannot be read.
        CapabilityError: If the model is refused; says what works instead.
    """
    from twigkit.cli import shapes
    from twigkit.cli.loading import base_folder
    from twigkit.families.sizing import inspect_base

    shape = inspect_base(base_folder(args.base), args.revision)
    print(shapes.dump(shapes.as_json(shape)) if args.json else shapes.details(shape), end="")
    return 0
