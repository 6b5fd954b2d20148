"""The command ``twigkit``: finds the asked-for command and imports nothing else.

A built-in command is one module beside this one with ``add_arguments(parser)`` and
``run(args) -> int``, and one line in :data:`COMMANDS`. A plug-in's command is a module of the same
shape, named by an entry point of the group ``twigkit.commands``.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import logging
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import twigkit
from twigkit.cli.console import HarmlessFormatter, harmless, prepare
from twigkit.errors import InputError, PluginError, TwigkitError

if TYPE_CHECKING:
    from twigkit.plugins.discovery import Source

COMMANDS = {
    "demo": "Show the method at work on unseen pictures, with a report to open in a browser.",
    "generate": "Answer a question about your own pictures.",
    "map": "Answer all records of a file, here or on a Ray cluster.",
    "serve": "Answer over HTTP, in the format of OpenAI's API.",
    "bench": "Measure speed and memory side by side with Hugging Face's generate.",
    "eval": "Score a model on tasks by budgets, pruners and drafters.",
    "show": "Draw what happens inside: the visual tokens that are kept, the token tree of a step.",
    "grow": "Write an untrained twig for a base.",
    "train": "Train a twig as a file says, or go on with a run that was interrupted.",
    "tune-tree": "Find the static token tree that suits a twig's heads.",
    "import-reference": "Turn a published TwigVLM checkpoint into a twig.",
    "new-plugin": "Write a plug-in package to start from.",
    "plugins": "List the installed plug-ins, where they come from, and problems.",
    "families": "Show which model families are served, and what each can do.",
    "inspect": "Show the shape of a base model, and a run to start from.",
    "presets": "Show the shapes of well-known models, and what a twig on each costs.",
    "spec": "Check a spec file, or print the JSON Schema or an example.",
    "chat": "Talk with a model about pictures, over several turns.",
    "push": "Put a twig on the Hub.",
    "pull": "Fetch a twig from the Hub.",
    "completion": "Print a script that completes the command line in bash, zsh or fish.",
}
"""Built-in commands: the name, which is also the module's, and a line of help."""

GROUPS = {
    "answer": ("demo", "generate", "chat", "map", "serve"),
    "make a twig": ("grow", "train", "tune-tree", "import-reference", "push", "pull"),
    "measure and look inside": ("bench", "eval", "show"),
    "bases, plug-ins and files": (
        "families", "inspect", "presets", "plugins", "new-plugin", "spec", "completion"
    ),
}  # fmt: skip
"""The commands as the help shows them, by what they are for; those of plug-ins come last."""

VERSIONS = ("torch", "transformers", "huggingface-hub", "tokenizers", "torch-geometric", "peft")
"""Packages whose versions decide what twigkit does."""

_NO_ROOM = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)
"""Errors of a standard output that takes nothing more."""

_DESCRIPTION = "Accelerate vision-language models by growing twigs on them."


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong command line on one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where the help is.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{message}; see `{self.prog} --help`")

    def print_help(self, file: Any = None) -> None:
        """Print the help; a stream that takes nothing more is an error, as for any other text."""
        print(self.format_help(), end="", file=file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after ``twigkit``; None takes them from the process.

    Returns:
        The exit status: 0 if all went well, 2 for an error that the user can mend, and otherwise
        what the command returned.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in given if word not in ("--debug", "--verbose")]  # allowed anywhere
    debug = "--debug" in given
    if "--verbose" in given:
        _log_to_stderr()
    try:
        module, args = parse(words)
        if getattr(args, "run_file", None) is not None:
            from twigkit.cli.run_file import defaults_of

            module, args = parse(words, **defaults_of(args.run_file))
        return _run(module, args) if module else 0
    except TwigkitError as error:
        if debug:
            raise
        print(f"twigkit: error: {harmless(_one_line(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print("twigkit: interrupted", file=sys.stderr)
        return 130


def entry() -> NoReturn:
    """Run the command line as a process and leave with its exit status."""
    if sys.stderr is None:  # closed; a line of output must not take its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    if sys.stdout is None:
        print("twigkit: error: stdout is closed; send it to a file or a pipe", file=sys.stderr)
        sys.exit(2)
    prepare()
    try:
        try:
            status = main()
        finally:  # also where the help has been printed and the process is leaving
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_output()
        status = 0
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None or "--debug" in sys.argv:
            raise
        _drop_output()
        cause = error.strerror or str(error)
        print(f"twigkit: error: cannot write to stdout: {cause}; make room", file=sys.stderr)
        status = 2
    sys.exit(status)


def _drop_output() -> None:
    """Let what is still to be written to stdout go nowhere, so that leaving raises nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(module: ModuleType, args: argparse.Namespace) -> int:
    """Run a command; an exception of a plug-in's names the distribution."""
    try:
        return int(module.run(args) or 0)
    except (TwigkitError, BrokenPipeError, MemoryError):
        raise
    except Exception as error:
        origin = getattr(args, "command_origin", None)
        if origin is not None:
            raise PluginError(
                f"the command of {origin} failed: {type(error).__name__}: {error}; report it to "
                "its authors"
            ) from error
        _name_unreadable(error)
        raise


def _name_unreadable(error: Exception) -> None:
    """Name the distributions whose entry points may have stopped an import of ours.

    Raises:
        PluginError: If there are any.
    """
    from twigkit.plugins.discovery import unreadable

    if broken := unreadable():
        raise PluginError(
            f"the entry points of {'; '.join(broken)} cannot be read, which stops the import of "
            f"packages that read all there are: {type(error).__name__}: {error}. Uninstall it or "
            "mend its entry_points.txt"
        ) from error


def _log_to_stderr() -> None:
    """Show what twigkit logs, and what of its own it tells no one else."""
    handler = logging.StreamHandler()
    handler.setFormatter(HarmlessFormatter("%(name)s: %(message)s"))
    logger = logging.getLogger("twigkit")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def parse(words: list[str], **defaults: Any) -> tuple[ModuleType | None, argparse.Namespace]:
    """Parse the words with the arguments of the command that they name.

    Args:
        words: The words after ``twigkit``.
        **defaults: Values of the command's options that the words do not give.

    Returns:
        The command's module, None if no command was named, and its parsed arguments.

    Raises:
        InputError: If the words are not what the command takes.
        PluginError: If the command is a plug-in's and does not load.
    """
    name = next((word for word in words if not word.startswith("-")), None)
    extra = {} if name in COMMANDS else _plugin_commands()
    parser, subparsers = _parser(extra)
    module = None
    if name in subparsers:
        module = _module(name, extra)
        if name in extra:
            origin = f"{extra[name].distribution} {extra[name].version}"
            subparsers[name].set_defaults(command_origin=origin)
        _add_arguments(module, subparsers[name])
        subparsers[name].set_defaults(**defaults)
    elif name is not None:
        close = difflib.get_close_matches(name, subparsers, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"there is no command {name!r}{hint}; see `twigkit --help`")
    args, unknown = parser.parse_known_args(words)
    if unknown:
        where = "twigkit" if name is None else f"twigkit {name}"
        raise InputError(f"unrecognized arguments: {' '.join(unknown)}; see `{where} --help`")
    if module is None:
        parser.print_help()
    return module, args


def whole_parser() -> argparse.ArgumentParser:
    """Return a parser with the options of all built-in commands, and the names of plug-ins'."""
    parser, subparsers = _parser(_plugin_commands())
    for name in COMMANDS:
        _add_arguments(_module(name, {}), subparsers[name])
    return parser


def _add_arguments(module: ModuleType, parser: argparse.ArgumentParser) -> None:
    """Let a command add its options; an exception of a plug-in's names the distribution."""
    origin = parser.get_default("command_origin")
    try:
        module.add_arguments(parser)
    except (Exception, SystemExit) as error:
        if origin is None:
            raise
        raise PluginError(
            f"the command of {origin} cannot say what it takes: {type(error).__name__}: {error}; "
            "report it to its authors"
        ) from error


class _Version(argparse.Action):
    """Prints the versions that matter, and leaves; nothing is imported for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print them."""
        print(f"twigkit {twigkit.__version__}")
        print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
        for name in VERSIONS:
            with contextlib.suppress(metadata.PackageNotFoundError):
                print(f"{name} {metadata.version(name)}")
        parser.exit()


def _listed(lines: dict[str, str]) -> str:
    """Put the commands with their lines of help into groups."""
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "from plug-ins": tuple(name for name in lines if name not in grouped)}
    width = shutil.get_terminal_size().columns - 2
    text = []
    for title, names in groups.items():
        if found := [name for name in names if name in lines]:
            text.append(f"{title}:")
            for name in found:
                told = textwrap.wrap(lines[name], max(width - 20, 20))
                text += [f"  {name:<18}{told[0]}", *(" " * 20 + line for line in told[1:])]
            text.append("")
    return "\n".join(text)


def _parser(extra: dict[str, Source]) -> tuple[Parser, dict[str, argparse.ArgumentParser]]:
    """Build the top-level parser, with a bare one per command."""
    lines = dict(COMMANDS)
    for name, source in extra.items():
        lines[name] = f"From {source.distribution} {source.version}."
    parser = Parser(
        prog="twigkit",
        usage="twigkit [options] COMMAND ...",
        description=_DESCRIPTION,
        epilog=_listed(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions that matter")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--verbose", action="store_true", help="say on stderr what is being done")
    actions = parser.add_subparsers(
        metavar="COMMAND", help="one of those below; COMMAND --help shows its options",
        prog="twigkit", parser_class=Parser,
    )  # fmt: skip
    subparsers: dict[str, argparse.ArgumentParser] = {}
    for name, line in lines.items():
        subparsers[name] = actions.add_parser(name, description=line)
    return parser, subparsers


def _plugin_commands() -> dict[str, Source]:
    """List the commands of plug-ins; one that would hide a built-in one is left out and told."""
    from twigkit.plugins.discovery import commands

    found = commands()
    for name in sorted(set(COMMANDS) & set(found)):
        source = found.pop(name)
        origin = harmless(f"{source.distribution} {source.version}")
        print(
            f"twigkit: warning: {origin} brings the command {name!r}, which is built in; "
            "uninstall it or ask its authors to rename the command",
            file=sys.stderr,
        )
    return found


def _module(name: str, extra: dict[str, Source]) -> ModuleType:
    """Import the module of a command."""
    if name in COMMANDS:
        return importlib.import_module(f"twigkit.cli.{name.replace('-', '_')}")
    source = extra[name]
    try:
        module: ModuleType = source.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"the command {name!r} of {source.distribution} {source.version} does not load: "
            f"{type(error).__name__}: {error}; mend or uninstall that package"
        ) from error
    for needed in ("add_arguments", "run"):
        if not hasattr(module, needed):
            raise PluginError(
                f"the command {name!r} of {source.distribution} {source.version} has no "
                f"`{needed}`; expected a module with add_arguments(parser) and run(args)"
            )
    return module


def _one_line(error: TwigkitError) -> str:
    """Join the lines of a message; a spec reports one problem per line."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
