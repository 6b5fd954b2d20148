"""``twigkit completion``: print a script that completes the command line in bash, zsh or fish."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

_BASH = """\
# Completion of twigkit for bash; load it with: source <(twigkit completion bash)
_twigkit() {{
    local at=twigkit word words= cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}}
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$at $word" in
{steps}
        esac
    done
    COMPREPLY=()
    case "$at $prev" in
{values}
        *) case "$at:$cur" in
{words}
        esac ;;
    esac
    [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _twigkit twigkit
"""

_ZSH = """\
#compdef twigkit
# Completion of twigkit for zsh; load it after compinit with: source <(twigkit completion zsh)
_twigkit() {{
    local at=twigkit word cur=${{words[CURRENT]}} prev=${{words[CURRENT-1]}}
    local -a found
    for word in ${{words[2,CURRENT-1]}}; do
        case "$at $word" in
{steps}
        esac
    done
    case "$at $prev" in
{values}
        *) case "$at:$cur" in
{words}
        esac ;;
    esac
    if (( $#found )); then _describe twigkit found; else _files; fi
}}
compdef _twigkit twigkit
"""


@dataclass
class Option:
    """An option of a command.

    Attributes:
        flags: How it is written.
        told: A line of help.
        valued: Whether a value follows.
        choices: The values that there are; empty if they are not listed.
    """

    flags: list[str]
    told: str
    valued: bool
    choices: list[str]


@dataclass
class Command:
    """A command, or a part of one.

    Attributes:
        path: Its words, from ``twigkit`` on.
        told: A line of help.
        options: Its own options.
        choices: Words that may stand in a place of their own.
        parts: The commands below it.
    """

    path: tuple[str, ...]
    told: str = ""
    options: list[Option] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    parts: list[Command] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The words with spaces between them."""
        return " ".join(self.path)

    def walk(self) -> Iterator[Command]:
        """Yield it and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("shell", choices=tuple(_SCRIPTS), help="whose script is printed")


def run(args: argparse.Namespace) -> int:
    """Print the script.

    Args:
        args: The parsed options.

    Returns:
        0.
    """
    from twigkit.cli.main import whole_parser

    print(_SCRIPTS[args.shell](described(whole_parser())), end="")
    return 0


def described(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ("twigkit",), told: str = ""
) -> Command:
    """Read what a parser takes.

    Args:
        parser: The parser.
        path: The words that lead to it.
        told: Its line of help.
    """
    command = Command(path, told)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, part in action.choices.items():
                command.parts.append(described(part, (*path, name), part.description or ""))
            continue
        choices = [str(choice) for choice in action.choices or ()]
        if action.option_strings:
            line = " ".join((action.help or "").replace("%%", "%").split())
            valued = action.nargs != 0
            command.options.append(Option(list(action.option_strings), line, valued, choices))
        else:
            command.choices += choices
    return command


def bash(root: Command) -> str:
    """Write the script for bash.

    Args:
        root: What ``twigkit`` takes.
    """
    values, words = [], []
    for command in root.walk():
        for option in command.options:
            if option.valued:
                for flag in option.flags:
                    values.append(f'"{command.name} {flag}") words="{" ".join(option.choices)}" ;;')
        flags = " ".join(flag for option in command.options for flag in option.flags)
        words.append(f'"{command.name}:-"*) words="{flags}" ;;')
        places = " ".join([part.path[-1] for part in command.parts] + command.choices)
        if places:
            words.append(f'"{command.name}:"*) words="{places}" ;;')
    return _BASH.format(steps=_cases(_steps(root)), values=_cases(values), words=_cases(words))


def zsh(root: Command) -> str:
    """Write the script for zsh, which shows the lines of help too.

    Args:
        root: What ``twigkit`` takes.
    """
    values, words = [], []
    for command in root.walk():
        for option in command.options:
            if option.valued:
                for flag in option.flags:
                    values.append(f'"{command.name} {flag}") found=({_listed(option.choices)}) ;;')
        flags = [f"{flag}:{_plain(o.told)}" for o in command.options for flag in o.flags]
        words.append(f'"{command.name}:-"*) found=({_listed(flags)}) ;;')
        places = [f"{part.path[-1]}:{_plain(part.told)}" for part in command.parts]
        if places + command.choices:
            listed = _listed(places + command.choices)
            words.append(f'"{command.name}:"*) found=({listed}) ;;')
    return _ZSH.format(steps=_cases(_steps(root)), values=_cases(values), words=_cases(words))


def fish(root: Command) -> str:
    """Write the script for fish.

    Args:
        root: What ``twigkit`` takes.
    """
    lines = ["# Completion of twigkit for fish; load it with: twigkit completion fish | source"]
    for command in root.walk():
        seen = [f"__fish_seen_subcommand_from {word}" for word in command.path[1:]]
        parts = " ".join(part.path[-1] for part in command.parts)
        place = [*seen, f"not __fish_seen_subcommand_from {parts}"] if parts else seen
        where = f"complete -c twigkit -n {shlex.quote('; and '.join(place))}"
        for part in command.parts:
            lines.append(f"{where} -f -a {part.path[-1]} -d {shlex.quote(part.told)}")
        if command.choices:
            lines.append(f"{where} -f -a {shlex.quote(' '.join(command.choices))}")
        for option in command.options:
            flags = " ".join(_fish_flag(flag) for flag in option.flags)
            told = f"{where} {flags} -d {shlex.quote(option.told)}"
            if option.choices:
                told += f" -x -a {shlex.quote(' '.join(option.choices))}"
            lines.append(told + (" -r" if option.valued and not option.choices else ""))
    return "\n".join(lines) + "\n"


_SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
"""What writes the script, by shell."""


def _fish_flag(flag: str) -> str:
    return f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"


def _steps(root: Command) -> list[str]:
    """Cases that lead from a command to one below it."""
    return [
        f'"{command.name} {part.path[-1]}") at="{part.name}" ;;'
        for command in root.walk()
        for part in command.parts
    ]


def _cases(lines: list[str]) -> str:
    return "\n".join(f"            {line}" for line in lines)


def _plain(text: str) -> str:
    """Leave out what ends a word's description in zsh."""
    return text.replace(":", " ")


def _listed(words: list[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
