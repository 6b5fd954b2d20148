"""The language stage and the joint stages: packed turns over facts in words, then over pictures."""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from twigkit.demo.pool import HELD_OUT, Pool, scene_of
from twigkit.demo.recipe.build import PAD, VISUAL
from twigkit.demo.recipe.course import Course, choose_kept, draw_course, packed_logits
from twigkit.demo.recipe.packing import LABELS, Drill, Packed, Packer, answerable
from twigkit.demo.recipe.stage import Stage, StageSpec
from twigkit.demo.recipe.vision import pixels
from twigkit.demo.words import fact_text
from twigkit.demo.world import draw_with_owners
from twigkit.interfaces.objective import LossTerm
from twigkit.learning.batch import IGNORED, Batch

FACTS = 40  # tokens of a scene in words, padded
LONG = LABELS.index("describe")


class PackedStage(Stage):
    """What the language stage and the joint stages share: turns, course, loss, figures."""

    droppable = True

    def __init__(
        self,
        name: str,
        model: LlavaForConditionalGeneration,
        spec: StageSpec,
        packer: Packer,
        scenes: int,
        drill: Drill | None = None,
        few: bool = True,
    ) -> None:
        """Prepare a stage.

        Args:
            name: Name of the stage's folder.
            model: The base.
            spec: How long and how fast it learns.
            packer: Makes and packs the turns.
            scenes: Scenes to train on.
            drill: What to ask more often; None for rows with a description and one question of
                each kind.
            few: Whether scenes are the emptier ones; crowded ones also teach the first layers to
                look as :func:`~twigkit.demo.recipe.course.early_attention` says.
        """
        super().__init__(name, model, spec)
        self.packer, self.scenes, self.drill, self.few = packer, scenes, drill, few

    @abstractmethod
    def see(self, seeds: list[int], rng: random.Random) -> tuple[Tensor, np.ndarray]:
        """What the base is shown of scenes, and the item that each visual token shows.

        Args:
            seeds: Seeds of the scenes.
            rng: Source of chance.

        Returns:
            Something for :meth:`embed`, one row per scene, and owners ``[batch, visual]``.
        """

    @abstractmethod
    def embed(self, seen: Tensor) -> Tensor:
        """Embeddings of what the base is shown, ``[batch, visual, width]`` float32."""

    def draw(self, step: int, share: int) -> Batch:
        """Draw scenes, turns, and the course that all micro-batches of the step take."""
        key = f"{self.name} {self.spec.seed} {step}"
        depth = len(self.model.model.language_model.layers)
        course = draw_course(random.Random(key), depth, self.droppable)
        rng = random.Random(f"{key} {share}")
        seeds = [rng.randrange(self.scenes) for _ in range(self.pictures)]
        return self._batch(seeds, course, rng, self.drill)

    def held_out(self) -> list[Batch]:
        """Draw scenes, unpruned and wiped at 3/4 depth."""
        rng = random.Random(f"{self.name} held out")
        depth = len(self.model.model.language_model.layers)
        starts = range(HELD_OUT, HELD_OUT + self.spec.held_out, self.pictures)
        return [
            self._batch(list(range(start, start + self.pictures)), course, rng, None)
            for course in (Course(), Course(wipe=depth * 3 // 4))
            for start in starts
        ]

    def _batch(
        self, seeds: list[int], course: Course, rng: random.Random, drill: Drill | None
    ) -> Batch:
        """Ask about scenes; a short answer's token counts three times, one that is gone not."""
        sample = self.packer.sample
        rows = [
            sample(scene, rng) if drill is None else self.packer.drill(scene, rng, drill)
            for scene in (scene_of(seed, self.few) for seed in seeds)
        ]
        packed = self.packer.pack(rows)
        seen, owners = self.see(seeds, rng)
        keep, counted = None, packed.target
        if course.drop is not None:
            kept = choose_kept(owners, course.kept, np.random.default_rng(rng.getrandbits(63)))
            present = [set(o[k].tolist()) for o, k in zip(owners, kept, strict=True)]
            counted = counted & answerable(packed.turns, present, packed)
            keep = torch.from_numpy(kept)
        weights = counted * torch.where(packed.kinds == LONG, 1, 3)
        inputs = {"seen": seen, "packed": packed, "course": course, "keep": keep}
        labels = torch.where(counted, packed.ids, IGNORED)
        names = [f"{self.name}-{seed}" for seed in seeds]
        return Batch({**inputs, "weights": weights[:, 1:]}, labels, [], names)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count the weights of the answers' tokens."""
        return {"weights": int(batch.inputs["weights"].sum())}

    def forward(
        self, batch: Batch, progress: float, seed: int
    ) -> tuple[dict[str, LossTerm], dict[str, Any]]:
        """Cross-entropy on answer tokens; in crowded scenes also how early layers look."""
        early: list[Tensor] | None = None if self.few else []
        logits = self._logits(batch, early)
        target = batch.inputs["packed"].ids[:, 1:]
        each = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        total = (each.view(target.shape) * batch.inputs["weights"]).sum()
        parts = {"next_token": LossTerm(total, "weights", 1.0)}
        if early:
            sums = torch.stack(early).sum(0) * batch.inputs["weights"].sum()
            parts["early_share"] = LossTerm(sums[0], "weights", 1.0)
            parts["early_pattern"] = LossTerm(sums[1], "weights", 0.05)
        return parts, {}

    def examine(self, batch: Batch) -> dict[str, float]:
        """Count right tokens per kind, unpruned and wiped apart."""
        packed: Packed = batch.inputs["packed"]
        target = batch.labels[:, 1:] != IGNORED
        right = target & (self._logits(batch).argmax(dim=-1) == packed.ids[:, 1:])
        figures: dict[str, float] = {}
        for label, wiped in (("", False), ("wiped ", True)):
            here = wiped == (batch.inputs["course"].wipe is not None)
            for number, kind in enumerate(LABELS):
                own = (packed.kinds[:, 1:] == number) & here
                name = label + kind
                figures[f"{name}/{name} tokens"] = int((own & right).sum())
                figures[f"{name} tokens"] = int((own & target).sum())
        return figures

    def _logits(self, batch: Batch, early: list[Tensor] | None = None) -> Tensor:
        """Logits of every text token but the first."""
        given: dict[str, Any] = batch.inputs
        visual = self.embed(given["seen"])
        logits = packed_logits(
            self.model, visual, given["packed"], given["course"], given["keep"], early=early
        )
        return logits[:, :-1]


class LanguageStage(PackedStage):
    """The text model alone: a scene's facts in words stand where the picture will be."""

    droppable = False

    def __init__(
        self,
        name: str,
        model: LlavaForConditionalGeneration,
        spec: StageSpec,
        packer: Packer,
        scenes: int,
    ) -> None:
        """Take what ``PackedStage`` takes; the text model and its head learn."""
        super().__init__(name, model, spec, packer, scenes)
        self.model.model.language_model.requires_grad_(True)
        self.model.lm_head.requires_grad_(True)

    def see(self, seeds: list[int], rng: random.Random) -> tuple[Tensor, np.ndarray]:
        """Token ids of the facts, items in random order; no owners."""
        rows = np.full((len(seeds), FACTS), PAD, dtype=np.int64)
        for row, seed in enumerate(seeds):
            scene = scene_of(seed, self.few)
            order = rng.sample(range(len(scene.items)), len(scene.items))
            ids = self.packer.encode(fact_text(scene, order))
            rows[row, : len(ids)] = ids
        return torch.from_numpy(rows), np.full(rows.shape, -1)

    def embed(self, seen: Tensor) -> Tensor:
        """Embeddings of the words."""
        found: Tensor = self.model.model.language_model.embed_tokens(seen)
        return found


class JointStage(PackedStage):
    """The whole model: pictures through the frozen tower and the projector before the turns."""

    def __init__(
        self,
        name: str,
        model: LlavaForConditionalGeneration,
        spec: StageSpec,
        packer: Packer,
        pool: Pool,
        drill: Drill | None = None,
        first_layer: int = 0,
    ) -> None:
        """Take what ``PackedStage`` takes, the pool, and the first text layer that learns.

        From layer 0 on, the projector and the embeddings learn as well.
        """
        super().__init__(name, model, spec, packer, pool.size, drill, pool.few)
        self.pool = pool
        text = self.model.model.language_model
        learning = [*text.layers[first_layer:], text.norm, self.model.lm_head]
        if first_layer == 0:
            learning += [text.embed_tokens, self.model.model.multi_modal_projector]
        for part in learning:
            part.requires_grad_(True)

    def see(self, seeds: list[int], rng: random.Random) -> tuple[Tensor, np.ndarray]:
        """The pictures, and the item that each patch shows."""
        if seeds[0] < HELD_OUT:
            pictures, owners = self.pool.pictures[seeds], np.asarray(self.pool.owners[seeds])
        else:
            drawn = [draw_with_owners(scene_of(s, self.few)) for s in seeds]
            pictures = np.stack([picture for picture, _ in drawn])
            owners = np.stack([owner.reshape(-1) for _, owner in drawn])
        return pixels(pictures), owners.astype(np.int64)

    def embed(self, seen: Tensor) -> Tensor:
        """Projected features of the pictures."""
        return project(self.model, seen)


def project(model: LlavaForConditionalGeneration, values: Tensor) -> Tensor:
    """Pictures through tower and projector.

    Args:
        model: The base.
        values: Pixels, ``[batch, 3, edge, edge]``.

    Returns:
        ``[batch, visual, width]`` float32.
    """
    hidden = model.model.vision_tower(pixel_values=values).last_hidden_state[:, 1:]
    features: Tensor = model.model.multi_modal_projector(hidden)
    assert features.shape[1] == VISUAL
    return features.float()
