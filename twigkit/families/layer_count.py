"""How many layers the weights of a checkpoint are of, by their names alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twigkit.errors import CheckpointError
from twigkit.io.files import read_regular

_LAYER = re.compile(r"\.(?:layers|blocks|layer|h)\.(\d+)\.")
_INDEX = "model.safetensors.index.json"
_SHARD = "model.safetensors"
_LARGEST = 1 << 26
"""Most bytes of an index of weights, and of a file's own list of them."""


def check_layer_count(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration with more layers than a folder has weights of.

    They would all be built, and filled at random, before it came out.

    Args:
        folder: Folder of the base; without weights that can be listed nothing is said.
        config: The base's configuration as plain data.

    Raises:
        CheckpointError: With both numbers.
    """
    numbers = [int(n) for name in _weight_names(folder) for n in _LAYER.findall(f".{name}")]
    if not numbers:
        return
    for part in (config, *config.values()):
        layers = part.get("num_hidden_layers") if isinstance(part, Mapping) else None
        if isinstance(layers, int) and layers > max(numbers) + 1:
            raise CheckpointError(
                f"cannot load the base model {folder}: its config.json says {layers:,} layers, but "
                f"there are weights of {max(numbers) + 1:,}; copy the checkpoint again"
            )


def _weight_names(folder: Path) -> Iterator[str]:
    """Yield the names of the weights in a folder; nothing where they cannot be read."""
    try:
        if (folder / _INDEX).is_file():
            yield from map(str, json.loads(read_regular(folder / _INDEX, _LARGEST))["weight_map"])
        elif (folder / _SHARD).is_file():
            with (folder / _SHARD).open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size <= _LARGEST:
                    yield from map(str, json.loads(file.read(size)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # what is wrong with it, its loading says better


__all__ = ["check_layer_count"]
