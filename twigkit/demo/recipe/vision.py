"""The first stages: the vision tower learns to name what each patch belongs to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from twigkit.demo.pool import HELD_OUT, Pool, scene_of
from twigkit.demo.recipe.stage import SHARES, Stage, StageSpec
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
from twigkit.interfaces.objective import LossTerm
from twigkit.learning.batch import Batch

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


def patch_labels(seeds: list[int], owners: np.ndarray, few: bool = False) -> dict[str, Tensor]:
    """The right answer of every label head for every patch.

    Args:
        seeds: Seeds of the scenes, one per row.
        owners: Item of each patch or -1, ``[batch, 144]``.
        few: Whether scenes are the emptier ones.

    Returns:
        ``[batch, 144]`` int64 per label; 0 for background where the label has such a class.
    """
    labels = {name: np.zeros(owners.shape, dtype=np.int64) for name in {**LABELS, **SPOTS}}
    colors, sizes = ("", *COLORS), ("", *SIZES)
    for row, seed in enumerate(seeds):
        scene = scene_of(seed, few)
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


class VisionStage(Stage):
    """Trains the tower and, thrown away afterwards, a linear head per label.

    Naming what a patch shows, a tower forgets where the patch is; a second round, shorter, asks for
    that as well.
    """

    def __init__(
        self,
        name: str,
        model: LlavaForConditionalGeneration,
        spec: StageSpec,
        pool: Pool,
        spots: bool = False,
    ) -> None:
        """Draw the heads.

        Args:
            name: Name of the stage's folder.
            model: The base, whose tower learns.
            spec: How long and how fast it learns.
            pool: The pictures.
            spots: Whether to ask where a patch is.
        """
        super().__init__(name, model, spec)
        self.pool, self.labels = pool, {**LABELS, **(SPOTS if spots else {})}
        self.tower = model.model.vision_tower.requires_grad_(True)
        self.tower.post_layernorm.requires_grad_(False)  # serves the pooled output alone
        width = model.config.vision_config.hidden_size
        torch.manual_seed(spec.seed)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in self.labels.items()})
        self.norm = nn.LayerNorm(width)

    def draw(self, step: int, share: int) -> Batch:
        """Draw pictures of the pool."""
        rng = np.random.default_rng((self.spec.seed, step))
        rows = np.sort(rng.integers(0, self.pool.size, self.spec.batch)[share::SHARES])
        return self._batch(rows.tolist(), self.pool.pictures[rows], self.pool.owners[rows])

    def held_out(self) -> list[Batch]:
        """Draw scenes."""
        batches = []
        for start in range(HELD_OUT, HELD_OUT + self.spec.held_out, self.pictures):
            seeds = list(range(start, start + self.pictures))
            drawn = [draw_with_owners(scene_of(seed, self.pool.few)) for seed in seeds]
            owners = np.stack([owner.reshape(-1) for _, owner in drawn])
            batches.append(self._batch(seeds, np.stack([p for p, _ in drawn]), owners))
        return batches

    def _batch(self, seeds: list[int], pictures: np.ndarray, owners: np.ndarray) -> Batch:
        """Label the patches of pictures, and weigh them: background tells little."""
        labels = patch_labels(seeds, np.asarray(owners, dtype=np.int64), self.pool.few)
        on_item = torch.from_numpy(owners >= 0).long()
        some = {"name": 10 * on_item + 1, "color": on_item, "size": on_item}
        some |= {"row": 10 * on_item + 1, "column": 10 * on_item + 1}
        everywhere = torch.ones_like(on_item)
        weights = {name: some.get(name, everywhere) for name in self.labels}
        inputs = {"pixels": pixels(pictures), "labels": labels, "weights": weights}
        return Batch(inputs, labels["name"], [], [f"{self.name}-{seed}" for seed in seeds])

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count the weights of the patches, label by label."""
        return {name: int(weight.sum()) for name, weight in batch.inputs["weights"].items()}

    def forward(
        self, batch: Batch, progress: float, seed: int
    ) -> tuple[dict[str, LossTerm], dict[str, float]]:
        """Cross-entropy of every label."""
        logits, parts = self._logits(batch), {}
        for name, weight in batch.inputs["weights"].items():
            target = batch.inputs["labels"][name].flatten()
            each = F.cross_entropy(logits[name].flatten(0, 1), target, reduction="none")
            parts[name] = LossTerm((each * weight.flatten()).sum(), name, 1.0)
        return parts, {}

    def examine(self, batch: Batch) -> dict[str, float]:
        """Count right labels, on the patches of items where that matters."""
        logits, figures = self._logits(batch), {}
        for name, weight in batch.inputs["weights"].items():
            asked = weight == weight.max()
            right = logits[name].argmax(-1) == batch.inputs["labels"][name]
            figures[f"{name}/{name} patches"] = float((right & asked).sum())
            figures[f"{name} patches"] = float(asked.sum())
        return figures

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        """Logits of every label, ``[batch, 144, classes]`` float32."""
        hidden = self.tower(pixel_values=batch.inputs["pixels"]).last_hidden_state[:, 1:]
        with torch.autocast("cpu", enabled=False):
            hidden = self.norm(hidden.float())
            return {name: head(hidden) for name, head in self.heads.items()}
