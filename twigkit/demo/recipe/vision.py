"""First stage: the vision tower learns to name what each patch belongs to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from twigkit.demo.pool import HELD_OUT, Pool, scene_of
from twigkit.demo.recipe.trainer import SHARDS, Schedule
from twigkit.demo.world import (  # fmt: skip
    COLORS,
    DIGITS,
    GRID,
    SHAPES,
    SIZES,
    TEXTURES,
    TINTS,
    WORDS,
    draw_with_owners,
)

NAMES = ("", *SHAPES, *WORDS, *DIGITS)
# Classes per label; name, colour and size matter on items, the rest on every patch.
LABELS = {
    "name": len(NAMES),
    "color": len(COLORS) + 1,
    "size": len(SIZES) + 1,
    "texture": len(TEXTURES),
    "tint": len(TINTS),
}
SPOTS = {"row": GRID, "column": GRID}  # where the patch is: what the second round adds


def pixels(pictures: np.ndarray) -> Tensor:
    """What the image processor makes of pictures that already have the right size.

    Args:
        pictures: ``[batch, 144, 144, 3]`` uint8.

    Returns:
        ``[batch, 3, 144, 144]`` float32 from -1 to 1.
    """
    values = torch.tensor(pictures).permute(0, 3, 1, 2)
    return values.float().div_(127.5).sub_(1.0).contiguous()


def patch_labels(seeds: list[int], owners: np.ndarray) -> dict[str, Tensor]:
    """The right answer of every label head for every patch.

    Args:
        seeds: Seeds of the scenes, one per row.
        owners: Item of each patch or -1, ``[batch, 144]``.

    Returns:
        ``[batch, 144]`` int64 per label; 0 for background where the label has such a class.
    """
    labels = {name: np.zeros(owners.shape, dtype=np.int64) for name in {**LABELS, **SPOTS}}
    colors, sizes = ("", *COLORS), ("", *SIZES)
    for row, seed in enumerate(seeds):
        scene = scene_of(seed)
        items = [
            (NAMES.index(i.name), colors.index(i.color), sizes.index(i.size)) for i in scene.items
        ]
        table = np.array([*items, (0, 0, 0)], dtype=np.int64)[owners[row]]
        labels["name"][row], labels["color"][row], labels["size"][row] = table.T
        labels["texture"][row] = TEXTURES.index(scene.texture)
        labels["tint"][row] = list(TINTS).index(scene.tint)
    labels["row"][:] = np.arange(GRID * GRID) // GRID
    labels["column"][:] = np.arange(GRID * GRID) % GRID
    return {name: torch.from_numpy(values) for name, values in labels.items()}


class VisionStage:
    """Trains the tower and, thrown away afterwards, a linear head per label.

    Naming what a patch shows, a tower forgets where the patch is; a second round, shorter, asks for
    that as well.
    """

    def __init__(
        self,
        name: str,
        config: CLIPVisionConfig,
        pool: Pool,
        schedule: Schedule,
        batch: int,
        seed: int,
        spots: bool = False,
    ) -> None:
        """Build the tower; ``batch`` is in scenes per step, ``spots`` asks where a patch is."""
        self.name, self.labels = name, {**LABELS, **(SPOTS if spots else {})}
        torch.manual_seed(seed)
        self.schedule, self.pool, self.batch, self.seed = schedule, pool, batch, seed
        self.tower = CLIPVisionModel(config)
        heads = {name: nn.Linear(config.hidden_size, n) for name, n in self.labels.items()}
        self.module = nn.ModuleDict({"tower": self.tower, "heads": nn.ModuleDict(heads)})
        self.module["norm"] = nn.LayerNorm(config.hidden_size)
        drawn = [draw_with_owners(scene_of(HELD_OUT + i)) for i in range(128)]
        self.held_out = np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])

    def loss(self, step: int, shard: int) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy of the labels; background counts a tenth for names."""
        rows = np.random.default_rng((self.seed, step)).integers(0, self.pool.size, self.batch)
        rows = np.sort(rows[shard::SHARDS])
        owners = np.asarray(self.pool.owners[rows], dtype=np.int64)
        labels = patch_labels(rows.tolist(), owners)
        logits = self._logits(pixels(self.pool.pictures[rows]))
        on_item = torch.from_numpy(owners >= 0).float()
        weights = {"name": on_item + 0.1, "color": on_item, "size": on_item}
        weights |= {"row": on_item + 0.1, "column": on_item + 0.1}
        total = torch.zeros(())
        for name in self.labels:
            target = labels[name]
            each = F.cross_entropy(logits[name].flatten(0, 1), target.flatten(), reduction="none")
            weight = weights.get(name, torch.ones_like(on_item)).flatten()
            total = total + (each * weight).sum() / weight.sum()
        return total, {}

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Accuracy per label on held-out scenes, on the patches of items where that matters."""
        pictures, owners = self.held_out
        owners = owners.reshape(len(owners), -1).astype(np.int64)
        labels = patch_labels([HELD_OUT + i for i in range(len(owners))], owners)
        logits = self._logits(pixels(pictures))
        on_item = torch.from_numpy(owners >= 0)
        figures = {}
        for name in self.labels:
            right = logits[name].argmax(-1) == labels[name]
            figures[name] = (
                (right[on_item] if name not in ("texture", "tint") else right).float().mean().item()
            )
        return figures

    def _logits(self, values: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.tower(pixel_values=values).last_hidden_state[:, 1:]
        hidden = self.module["norm"](hidden.float())
        return {name: head(hidden) for name, head in self.module["heads"].items()}
