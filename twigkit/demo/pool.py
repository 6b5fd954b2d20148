"""A pool of drawn training pictures on disk, so that training never waits for drawing."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from twigkit.demo.world import CROWD, EDGE, FEW, GRID, Scene, draw_with_owners, sample_scene

HELD_OUT = 1_000_000_000  # seeds from here on are never trained on


@lru_cache(maxsize=200_000)
def scene_of(seed: int, few: bool = False) -> Scene:
    """The scene of a seed, remembered; with ``few``, the emptier one that a base learns first."""
    return sample_scene(seed, FEW if few else CROWD)


class Pool:
    """Pictures of the scenes with seeds 0 .. size - 1, drawn once and mapped from disk.

    Attributes:
        pictures: ``[size, 144, 144, 3]`` uint8.
        owners: Item of each patch or -1, ``[size, 144]`` int8.
        few: Whether scenes are the emptier ones that a base learns first.
    """

    def __init__(self, folder: Path, size: int, few: bool = False) -> None:
        """Open the pool in a folder, drawing it first if it is not there.

        Args:
            folder: Where the two ``.npy`` files live; about 62 kB a scene.
            size: Number of scenes.
            few: Whether scenes are the emptier ones that a base learns first.
        """
        folder.mkdir(parents=True, exist_ok=True)
        label = f"few-{size}.npy" if few else f"{size}.npy"
        pictures, owners = folder / f"pictures-{label}", folder / f"owners-{label}"
        if not (pictures.exists() and owners.exists()):
            _draw(pictures, owners, size, few)
        self.size, self.few = size, few
        self.pictures = np.load(pictures, mmap_mode="r", allow_pickle=False)
        self.owners = np.load(owners, mmap_mode="r", allow_pickle=False)


def _draw(pictures: Path, owners: Path, size: int, few: bool) -> None:
    """Draw the pool into temporary files and rename them when both are whole."""
    parts = [path.with_suffix(".part") for path in (pictures, owners)]
    canvas = np.lib.format.open_memmap(
        parts[0], mode="w+", dtype=np.uint8, shape=(size, EDGE, EDGE, 3)
    )
    owned = np.lib.format.open_memmap(parts[1], mode="w+", dtype=np.int8, shape=(size, GRID * GRID))
    for seed in tqdm(range(size), desc="draw", unit="scene"):
        picture, owner = draw_with_owners(sample_scene(seed, FEW if few else CROWD))
        canvas[seed], owned[seed] = picture, owner.reshape(-1)
    canvas.flush()
    owned.flush()
    for part, path in zip(parts, (pictures, owners), strict=True):
        os.replace(part, path)
