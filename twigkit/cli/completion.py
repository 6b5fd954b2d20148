"""``twigkit completion``: what makes a shell complete command lines of twigkit."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish", "powershell")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "shell", choices=SHELLS, help='for bash or zsh: eval "$(twigkit completion bash)"'
    )


def run(args: argparse.Namespace) -> int:
    """Print the lines for a shell.

    Args:
        args: The parsed options.

    Returns:
        0.
    """
    from argcomplete.shell_integration import shellcode

    print(shellcode(["twigkit"], shell=args.shell))
    return 0
