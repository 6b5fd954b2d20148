"""The answers of a run on disk: one line per batch and method, whole or not there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twigkit.errors import InputError
from twigkit.io.files import unwritable, write_whole

__all__ = ["AnswerLog", "Answered", "check_settings", "read_mapping"]


@dataclass(frozen=True)
class Answered:
    """What one method answered to one batch.

    Attributes:
        batch: Number of the batch.
        method: Name of the method.
        keys: The questions.
        texts: The answers, in the same order.
        tokens: New tokens of all answers.
        seconds: Prefill and decoding of the batch.
        gained: Tokens gained by verifications, all answers together.
        steps: Verifications of all answers.
        visual_per_layer: Visual tokens per layer, mean over the questions.
    """

    batch: int
    method: str
    keys: list[str]
    texts: list[str]
    tokens: int
    seconds: float
    gained: int
    steps: int
    visual_per_layer: float


class AnswerLog:
    """A file of lines that a killed run leaves and the next one goes on with.

    Attributes:
        path: The file.
        done: The answers by batch and method.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that was cut off is dropped.

        Args:
            path: The file; it need not be there.

        Raises:
            InputError: If it cannot be read or written.
        """
        self.path = path
        self.done: dict[tuple[int, str], Answered] = {}
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        whole = []
        for line in lines[:-1]:  # what follows the last end of a line was cut off
            try:
                answered = Answered(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise _damaged(path, error) from error
            self.done[answered.batch, answered.method] = answered
            whole.append(line + b"\n")
        if b"".join(whole) != b"\n".join(lines):
            write_whole(path, b"".join(whole))

    def add(self, answered: Answered) -> None:
        """Append a line and make sure that it is on the disk.

        Args:
            answered: The answers of a batch.

        Raises:
            InputError: If they cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(json.dumps(asdict(answered)).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.done[answered.batch, answered.method] = answered

    def of(self, method: str, batches: int) -> list[Answered]:
        """Return the answers of a method, by batch.

        Args:
            method: Its name.
            batches: Number of batches.
        """
        return [self.done[number, method] for number in range(batches)]


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write what a run is about, or refuse to mix it with answers of another one.

    Args:
        path: The file that says it.
        settings: What decides the answers, as JSON has it.

    Raises:
        InputError: If the folder holds answers of other settings; names the first difference.
    """
    if path.exists():
        there = read_mapping(path)
        for name, value in settings.items():
            if there.get(name) != value:
                raise InputError(
                    f"{path.parent} holds answers with {name} = {there.get(name)!r}, and this run "
                    f"has {value!r}; give another folder with --out, or the same settings"
                )
    write_whole(path, json.dumps(settings, indent=1) + "\n")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a JSON object that an earlier run wrote.

    Args:
        path: The file.

    Raises:
        InputError: If it holds something else.
    """
    try:
        return dict(json.loads(path.read_bytes()).items())
    except (ValueError, AttributeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    """Say that a file of an earlier run cannot be used."""
    return InputError(f"{path} is damaged ({error}); give another folder with --out")
