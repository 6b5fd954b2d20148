"""Snapshots of a training run: all that resuming from a step needs, written atomically.

A run's folder holds ``snapshot-<step>.safetensors`` (trained parameters, both moments of AdamW, and
where the run stands) and ``best-<step>.safetensors`` (the parameters of the best evaluation). A
file is written in the folder ``writing``, forced to the disk and renamed, so that only a whole file
ever bears a name. It has a checksum of all that it holds, which is compared when it is read. The
snapshot is renamed last: what it refers to is there, and what nothing refers
to is cleared away afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from twigkit.errors import TrainingError

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]

FOLDER = "training"
"""Folder within a run's ``out`` that all but the twig lies in."""

_ASIDE = "writing"
"""Folder in which a file is written before it gets its name."""

FORMAT = 2
_RECORD, _CHECKSUM = "twigkit", "sha256"


@dataclass
class RunState:
    """Where a run stands between two steps.

    Attributes:
        step: Optimiser steps that are done.
        best: Criterion of the best evaluation so far, lower being better; ``None`` before the
            first.
        best_step: Its step.
        stale: Evaluations since then.
        latest: Criterion of the last evaluation.
        finished: Whether there is nothing left to train.
        broken: Reasons of broken samples, by id.
        window: Sums of the figures since the last line of the log, and the number of steps.
    """

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    latest: float | None = None
    finished: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    window: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SnapshotHeader:
    """What a snapshot says besides its tensors.

    Attributes:
        state: Where the run stands.
        run: What the run is, as plain data: the spec, the base, the data. A run goes on only where
            these are the same.
    """

    state: RunState
    run: dict[str, Any]


class Snapshots:
    """The snapshots in a run's folder.

    Attributes:
        folder: The folder.
        keep: Snapshots that are kept.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        """Name the folder; it is made when something is written."""
        self.folder, self.keep = Path(folder), keep

    @property
    def steps(self) -> list[int]:
        """Steps of the snapshots, ascending."""
        return _steps(self.folder, "snapshot")

    def path(self, step: int) -> Path:
        """Return the file of a step's snapshot."""
        return self.folder / f"snapshot-{step:08d}.safetensors"

    def best_path(self, step: int) -> Path:
        """Return the file with a step's parameters, if they were the best."""
        return self.folder / f"best-{step:08d}.safetensors"

    def save(self, tensors: Mapping[str, Tensor], record: SnapshotHeader) -> Path:
        """Write a snapshot and clear away what it makes superfluous.

        Args:
            tensors: By name; on the CPU or not.
            record: Where the run stands, and what it is.

        Returns:
            The file.

        Raises:
            TrainingError: If it cannot be written, as on a full disk; earlier snapshots are intact.
        """
        path = self.path(record.state.step)
        self._write(path, tensors, {"standing": asdict(record.state), "run": record.run})
        self.clear()
        return path

    def save_best(self, tensors: Mapping[str, Tensor], step: int) -> Path:
        """Write the parameters of an evaluation that was the best so far.

        The next snapshot must say so, or they are cleared away with it.

        Args:
            tensors: By name.
            step: Optimiser steps that are done.

        Returns:
            The file.

        Raises:
            TrainingError: If it cannot be written.
        """
        path = self.best_path(step)
        self._write(path, tensors, {"step": step})
        return path

    def read_header(self, step: int) -> SnapshotHeader:
        """Read what a snapshot says besides its tensors.

        Args:
            step: The snapshot's step.

        Raises:
            TrainingError: If the file is damaged or of another format.
        """
        path = self.path(step)
        with _reading(path):
            with safe_open(path, "pt") as file:
                held = json.loads((file.metadata() or {}).get(_RECORD, "{}"))
            if held.get("format") != FORMAT:
                raise TrainingError(
                    f"{path} has format {held.get('format')!r}, this twigkit reads format "
                    f"{FORMAT}; go on with the version that wrote it, or train in another folder"
                )
            return SnapshotHeader(RunState(**held["standing"]), held["run"])

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read the tensors of a snapshot, or the best parameters.

        Raises:
            TrainingError: If the file is missing or damaged.
        """
        with _reading(path):
            tensors = load_file(path)
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            if metadata.get(_CHECKSUM) != checksum(metadata.get(_RECORD, ""), tensors):
                raise ValueError("its SHA-256 is another than when it was written")
            return tensors

    def _write(self, path: Path, tensors: Mapping[str, Tensor], held: dict[str, Any]) -> None:
        """Write a file aside, force it to the disk, and give it its name."""
        writing = self.folder / _ASIDE
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        try:
            shutil.rmtree(writing, ignore_errors=True)  # a killed run's, perhaps gigabytes of it
            writing.mkdir(parents=True)
            scratch = writing / path.name
            text = json.dumps({"format": FORMAT, **held})
            metadata = {"format": "pt", _RECORD: text, _CHECKSUM: checksum(text, flat)}
            save_file(flat, scratch, metadata=metadata)
            _force(scratch)
            os.replace(scratch, path)
            _force(self.folder)
        except (OSError, SafetensorError) as error:
            raise TrainingError(self._refused(path, flat, error)) from error
        finally:
            shutil.rmtree(writing, ignore_errors=True)

    def _refused(self, path: Path, tensors: Mapping[str, Tensor], error: Exception) -> str:
        """Say why a file was not written, and what is left."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        steps = self.steps
        intact = f"the snapshot of step {steps[-1]} is intact" if steps else "there is none yet"
        try:
            free = f"{shutil.disk_usage(self.folder).free / 1e6:.0f} MB free"
        except OSError:
            free = "free space unknown"
        return (
            f"cannot write {path}, {size / 1e6:.1f} MB, {free}: {error}. Make room or mend the "
            f"folder, then give the same command again; {intact}"
        )

    def clear(self) -> None:
        """Remove what is superfluous, which a run that was killed may have left.

        That is half a file, snapshots beyond the newest, and best parameters that none of these
        names.
        """
        shutil.rmtree(self.folder / _ASIDE, ignore_errors=True)
        for step in self.steps[: -self.keep]:
            self.path(step).unlink(missing_ok=True)
        try:
            named = {self.read_header(step).state.best_step for step in self.steps}
        except TrainingError:
            return  # an older one is damaged; resuming from it raises the error
        for step in _steps(self.folder, "best"):
            if step not in named:
                self.best_path(step).unlink(missing_ok=True)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder for as long as this one goes on.

    The lock ends with the process, however that ends.

    Raises:
        TrainingError: If another run is at work there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise TrainingError(
            f"cannot write in {folder}: {error.strerror}; choose another 'out'"
        ) from error
    with file:
        if fcntl is not None:
            try:
                # The process's own, so that workers that outlive a killed run do not hold it.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise TrainingError(
                    f"another run is at work in {folder}; wait for it, end it, or choose another "
                    "'out'"
                ) from error
            except OSError:
                pass  # a file system without locks, as some networks have
        yield


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say what to do about a file that cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise TrainingError(
            f"there is no {path}; train in another folder, or put it back"
        ) from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is damaged ({error}); remove it and give the same command again to go on "
            "from the snapshot before it, or from the start if there is none"
        ) from error


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of what a file says and of its tensors on the CPU, in hexadecimal."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _steps(folder: Path, kind: str) -> list[int]:
    """List the steps of the files of a kind, ascending."""
    names = (
        path.name.split(".")[0].partition("-")[2] for path in folder.glob(f"{kind}-*.safetensors")
    )
    return sorted(int(name) for name in names if re.fullmatch("[0-9]{8,18}", name))


def _force(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems cannot do it for folders
            raise
    finally:
        os.close(handle)
