"""``twigkit pull``: fetch a twig from the Hub into a folder."""

from __future__ import annotations

import argparse

from twigkit.cli.push import add_hub_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("name", help="Hub id of the twig, such as org/name")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the twig goes")
    parser.add_argument("--subfolder", default="", metavar="DIR", help="folder in the repository")
    add_hub_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Fetch the files of a twig and print where they are.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        CheckpointError: If the Hub gives no such twig.
        InputError: If the folder cannot be written.
    """
    from twigkit.cli.loading import quieten, writable
    from twigkit.twig.hub import pull

    quieten()
    folder = pull(
        args.name,
        writable(args.out),
        revision=args.revision,
        subfolder=args.subfolder,
        token=args.token,
        endpoint=args.endpoint,
    )
    print(folder)
    return 0
