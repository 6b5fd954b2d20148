"""The safetensors files of a checkpoint: listed from their headers, read one tensor at a time."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from twigkit.errors import CheckpointError

INDEX = "model.safetensors.index.json"

_PARALLEL = "module."
"""What torch's data-parallel wrapper puts in front of every name."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint.

    Attributes:
        file: Where it lies.
        key: Its name there.
        shape: Its shape.
        floating: Whether it holds floating-point numbers.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    floating: bool


class WeightFiles:
    """The tensors of a checkpoint's folder, none of them in memory.

    Attributes:
        folder: The checkpoint.
        entries: Its tensors by name, without the prefix of a data-parallel wrapper.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers of all safetensors files.

        Args:
            folder: The checkpoint.

        Raises:
            CheckpointError: If there are none, one is missing or damaged, or two tensors have the
                same name.
        """
        if not os.path.isdir(folder):  # pathlib raises for names that are too long
            raise CheckpointError(f"there is no folder {folder}; name the checkpoint's folder")
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(
                f"{folder} holds no safetensors file; convert the checkpoint's weights to "
                "safetensors, other formats are not read"
            )
        missing = sorted(_indexed(folder) - {path.name for path in files})
        if missing:
            raise CheckpointError(
                f"{folder} lacks {some(missing)}, which {INDEX} names; copy the missing files"
            )
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        for path in files:
            for entry in _entries(path):
                name = entry.key.removeprefix(_PARALLEL)
                if name in self.entries:
                    raise CheckpointError(
                        f"{path} repeats {name} of {self.entries[name].file.name}; keep one "
                        "checkpoint per folder"
                    )
                self.entries[name] = entry

    def read(self, name: str) -> Tensor:
        """Read one tensor.

        Args:
            name: Its name.

        Raises:
            CheckpointError: If the file is damaged, or the tensor holds what is no number.
        """
        entry = self.entries[name]
        try:
            with safe_open(entry.file, "pt") as file:
                tensor: Tensor = file.get_tensor(entry.key)
        except (SafetensorError, OSError) as error:
            raise _damaged(entry.file, error) from error
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name} in {entry.file} has values that are no numbers (NaN or infinite); copy "
                "the file again"
            )
        return tensor


def _entries(path: Path) -> list[Entry]:
    """List the tensors of one file."""
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            return [
                Entry(path, key, tuple(part.get_shape()), part.get_dtype().startswith(("F", "BF")))
                for key, part in slices.items()
            ]
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _indexed(folder: Path) -> set[str]:
    """Names of the files that the index of a split checkpoint lists."""
    path = folder / INDEX
    if not path.exists():
        return set()
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not all(isinstance(name, str) for name in names):
        raise _damaged(path, ValueError("weight_map names files by what is no text"))
    return names


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({error}); copy the file again")


def some(names: list[str], joint: str = ", ") -> str:
    """Return the first three of a list as text, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return joint.join(names[:3]) + more
