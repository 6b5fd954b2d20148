"""The log of a training run: one JSON object per line, the same after any number of restarts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from twigkit.errors import TrainingError
from twigkit.io.files import write_whole

Line = dict[str, Any]
"""One line of the log: ``event``, ``step``, and figures by name."""


class RunLog:
    """Appends lines to a file that a killed run leaves and the next one goes on with.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the file; :meth:`rewind` opens it."""
        self.path = Path(path)
        self._file: IO[str] | None = None

    def rewind(self, step: int) -> None:
        """Drop what lies beyond a step, since it will happen again, and open for writing.

        A last line that was cut off is dropped too.

        Args:
            step: Steps that are done for good.

        Raises:
            TrainingError: If the file cannot be written.
        """
        self.close()
        kept = [line for line in read_lines(self.path) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        try:
            if not self.path.exists() or self.path.read_text(encoding="utf-8") != text:
                write_whole(self.path, text)
            self._file = self.path.open("a", encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._refused(error) from error

    def write(self, event: str, step: int, figures: Mapping[str, Any]) -> Line:
        """Append a line and flush it.

        Args:
            event: What happened, such as ``"step"``.
            step: Steps that are done.
            figures: What there is to say; numbers that JSON cannot hold become null.

        Returns:
            The line.

        Raises:
            TrainingError: If it cannot be written, as on a full disk.
        """
        line = {"event": event, "step": step, **_plain(figures)}
        if self._file is None:
            return line
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error
        return line

    def sync(self) -> None:
        """Make sure that all lines are on the disk, as a snapshot that counts on them needs."""
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise self._refused(error) from error

    def close(self) -> None:
        """Close the file; more lines are not written."""
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # of a line that could not be written, which was told then
                file.close()

    def _refused(self, error: Exception) -> TrainingError:
        reason = getattr(error, "strerror", None) or str(error)
        return TrainingError(
            f"cannot write the log {self.path}: {reason}. The checkpoints are intact; make room or "
            "mend the folder, then give the same command again to go on from the last one"
        )


def read_lines(path: str | Path) -> list[Line]:
    """Read a log.

    Args:
        path: The file; a missing one has no lines.

    Returns:
        The lines that are whole, in order.
    """
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except json.JSONDecodeError:
            continue  # cut off when the process died
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
    return found


@dataclass
class RunningMeans:
    """Sums of the figures since the last line of the log.

    Attributes:
        sums: By name.
        steps: How many steps they are of.
    """

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def add(self, figures: Mapping[str, float]) -> None:
        """Add one step's figures."""
        self.steps += 1
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Return the mean of every figure over the steps."""
        return {name: value / self.steps for name, value in self.sums.items()}

    def clear(self) -> None:
        """Start anew."""
        self.sums, self.steps = {}, 0


def _plain(value: Any) -> Any:
    """Replace what JSON has no word for."""
    if isinstance(value, Mapping):
        return {name: _plain(held) for name, held in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
