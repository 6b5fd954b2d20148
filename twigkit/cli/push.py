"""``twigkit push``: put a twig on the Hub."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("twig", help="folder of the twig")
    parser.add_argument("name", help="Hub id, such as org/name; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--message", metavar="TEXT", help="of the commit (Add a twig)")
    add_hub_arguments(parser)


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which Hub, and who asks.

    Args:
        parser: The parser of a command that talks to the Hub.
    """
    parser.add_argument("--revision", metavar="NAME", help="branch, or for pull any revision")
    parser.add_argument("--token", help="for the Hub (default: what `hf auth login` has stored)")
    parser.add_argument("--endpoint", metavar="URL", help="another Hub than huggingface.co")


def run(args: argparse.Namespace) -> int:
    """Put the files of a twig on the Hub and print where they are.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        CheckpointError: If the folder holds no twig, or the Hub refuses.
    """
    from twigkit.cli.loading import quieten
    from twigkit.twig.hub import push

    quieten()
    url = push(
        args.twig,
        args.name,
        private=args.private or None,
        revision=args.revision,
        message=args.message,
        token=args.token,
        endpoint=args.endpoint,
    )
    print(url)
    return 0
