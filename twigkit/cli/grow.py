"""``twigkit grow``: write an untrained twig, to look at, to time, or to train elsewhere."""

from __future__ import annotations

import argparse
from typing import Any

from twigkit.cli.loading import (
    DTYPES,
    add_force,
    base_folder,
    free_for_twig,
    quieten,
    writable,
)
from twigkit.errors import InputError
from twigkit.specs.run import TwigSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "spec",
        nargs="?",
        help="a .yaml or .json file with a twig spec; without one, the options say all",
    )
    parser.add_argument(
        "--base", metavar="MODEL", help="folder or Hub id of the base; 'demo' is the built-in one"
    )
    parser.add_argument("--exit-layer", type=int, metavar="K", help="base layers in front (2)")
    parser.add_argument("--depth", type=int, metavar="T", help="layers of the twig (3)")
    parser.add_argument(
        "--init",
        choices=("copy", "last", "random"),
        help="where its layers start: copies of the base's next layers, of its last ones, or "
        "random weights (copy)",
    )
    parser.add_argument(
        "--head",
        action="append",
        metavar="NAME",
        help="a head, such as lm, pruning or medusa; may be repeated (lm)",
    )
    parser.add_argument("--revision", help="revision of the base on the Hub")
    parser.add_argument("--seed", type=int, default=0, help="of random weights (default: 0)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="precision (default: the base's own)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the twig goes")
    add_force(parser)


def run(args: argparse.Namespace) -> int:
    """Grow a twig and write it.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        CheckpointError: If the base is missing or damaged, or the folder holds something else.
        InputError: If the seed has more than 64 bits.
        SpecError: If the twig does not fit the base.
    """
    if not -(2**63) <= args.seed < 2**64:
        raise InputError(f"--seed is {args.seed}; torch takes whole numbers of 64 bits")
    spec = read(args)
    writable(args.out)
    quieten()
    free_for_twig(args.out, force=args.force)
    import torch

    from twigkit.model import TwigModel
    from twigkit.twig.module import describe_size

    model = TwigModel.from_pretrained(
        base_folder(spec.base), dtype=args.dtype, revision=spec.revision
    )
    torch.manual_seed(args.seed)
    twig = model.grow(spec)
    folder = model.save_twig(args.out, note="Untrained.", overwrite=args.force)
    print(
        f"{folder}: an untrained twig of {twig.depth} layers on layer {twig.exit_layer} of "
        f"{spec.base}, {describe_size(twig, model.stack)}, heads: {', '.join(twig.heads)}"
    )
    return 0


def read(args: argparse.Namespace) -> TwigSpec:
    """Put the file and the options together.

    Args:
        args: The parsed options; those that were given go before the file.

    Returns:
        The twig's spec.

    Raises:
        InputError: If neither names a base.
        SpecError: If they do not fit.
    """
    given: dict[str, Any] = {
        "base": args.base,
        "revision": args.revision,
        "exit_layer": args.exit_layer,
        "depth": args.depth,
        "init": args.init,
        "heads": {name: name for name in args.head} if args.head else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if args.spec is not None:
        return TwigSpec.from_file(args.spec).replace(**given)
    if "base" not in given:
        raise InputError("name a file with a twig spec, or a base with --base")
    return TwigSpec(**given)
