"""The language stage and the joint stages: packed turns over facts in words, then over pictures."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from twigkit.demo.pool import HELD_OUT, Pool, scene_of
from twigkit.demo.questions import Turn
from twigkit.demo.recipe import decoder
from twigkit.demo.recipe.build import BOS, PAD, USER, VISUAL
from twigkit.demo.recipe.packing import LABELS, Drill, Packed, Packer, answerable
from twigkit.demo.recipe.trainer import SHARDS, Schedule
from twigkit.demo.recipe.vision import pixels
from twigkit.demo.words import fact_text
from twigkit.demo.world import Scene, draw_with_owners

FRONT = 2  # start token and "USER:" stand before the visual tokens
FACTS = 40  # tokens of a scene in words, padded
KEPT = (48, 11)  # visual tokens that may be left, fixed so that compiled code is reused


@dataclass(frozen=True)
class Course:
    """Where visual tokens leave the stack in one step.

    Attributes:
        drop: Layers that see all visual tokens, or None to keep all.
        kept: Visual tokens left after those layers.
        wipe: Layers after which no visual token is left, or None.
    """

    drop: int | None = None
    kept: int = VISUAL
    wipe: int | None = None


def draw_course(rng: random.Random, depth: int, droppable: bool) -> Course:
    """Choose a step's course: 15 % untouched, 15 % wiped, the rest dropped and wiped."""
    wipe = rng.randint(depth // 2, depth * 3 // 4)
    fate = rng.random()
    if fate < (0.15 if droppable else 0.25):
        return Course()
    if fate < (0.3 if droppable else 1.0):
        return Course(wipe=wipe)
    drop = max(1, rng.choice((2, 2, 2, 3, 4, 6)) * depth // 32)
    return Course(drop, rng.choice((*KEPT, min(KEPT))), wipe)


def choose_kept(owners: np.ndarray, kept: int, rng: np.random.Generator) -> np.ndarray:
    """Pick the visual tokens that stay: at random, or in most rows with things before background.

    Args:
        owners: Item of each visual token or -1, ``[batch, visual]``.
        kept: How many stay.
        rng: Source of chance.

    Returns:
        Sorted indices, ``[batch, kept]``.
    """
    rank = rng.random(owners.shape)
    for row in np.flatnonzero(rng.random(len(owners)) < (0.8 if kept > min(KEPT) else 1.0)):
        rank[row] += (owners[row] < 0) * 1.0
        for item in range(owners[row].max() + 1):
            own = np.flatnonzero(owners[row] == item)
            if len(own):
                rank[row, rng.choice(own)] -= 1.0
    return np.sort(np.argsort(rank, axis=1)[:, :kept], axis=1)


class LanguageModel:
    """Runs the text model of a LLaVA over packed rows, along a course.

    Attributes:
        model: The whole LLaVA model.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        compiled: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        depth: int | None = None,
    ) -> None:
        """Wrap a model.

        Args:
            model: Whose text model to run.
            compiled: Compile the layer, once per length.
            dtype: Type of the layers' matrix products.
            depth: Run this many layers only, then norm and head.
        """
        self.model, self.dtype, self.depth = model, dtype, depth
        self._layer: Callable[..., Tensor] = decoder.layer
        if compiled:
            self._layer = torch.compile(decoder.layer, dynamic=False)

    def __call__(
        self, visual: Tensor, packed: Packed, course: Course, keep: Tensor | None = None
    ) -> Tensor:
        """Logits of the text tokens.

        Args:
            visual: Embeddings that stand in the place of the picture, ``[batch, visual, width]``.
            packed: The turns.
            course: Where visual tokens leave.
            keep: Indices that stay at the drop, ``[batch, course.kept]``.

        Returns:
            ``[batch, length, vocabulary]`` float32.
        """
        text = self.model.model.language_model
        batch = len(visual)
        start = text.embed_tokens(torch.tensor([[BOS, USER]])).expand(batch, -1, -1)
        x = torch.cat((start, visual, text.embed_tokens(packed.ids)), dim=1)
        front = FRONT + visual.shape[1]
        ahead = torch.arange(front).expand(batch, -1)
        positions = torch.cat((ahead, packed.offsets + FRONT + VISUAL), dim=1)
        bias, table = packed.bias(), decoder.rotary(positions)
        for index, module in enumerate(text.layers[: self.depth]):
            left = None
            if index == course.drop and keep is not None:
                left = torch.cat((ahead[:, :FRONT], keep + FRONT), dim=1)
            elif index == course.wipe:
                left = ahead[:, :FRONT]
            if left is not None:
                x = torch.cat((_pick(x, left), x[:, front:]), dim=1)
                positions = torch.cat((positions.gather(1, left), positions[:, front:]), dim=1)
                table, front = decoder.rotary(positions), left.shape[1]
            x = self._layer(x, decoder.layer_weights(module, self.dtype), table, bias, front)
        return F.linear(text.norm(x[:, -packed.ids.shape[1] :]), self.model.lm_head.weight)


def _pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


class PackedStage(ABC):
    """What the language stage and the joint stages share: turns, course, loss, check.

    Attributes:
        name: Name of the stage's files.
        visual: Turns seeds, and rows of the pool, into embeddings and owners of visual tokens.
    """

    def __init__(
        self,
        name: str,
        model: LlavaForConditionalGeneration,
        packer: Packer,
        schedule: Schedule,
        batch: int,
        seed: int,
        compiled: bool = True,
        drill: Drill | None = None,
    ) -> None:
        """Prepare a stage.

        Args:
            name: Name of the stage's files.
            model: The model to train.
            packer: Makes and packs the turns.
            schedule: How long and how fast.
            batch: Pictures per step.
            seed: Decides all the chance.
            compiled: Compile the layer.
            drill: What to ask more often; None for rows with a description and one question of
                each kind.
        """
        self.drill = drill
        self.name, self.model, self.packer, self.schedule = name, model, packer, schedule
        self.batch, self.seed = batch, seed
        self.run = LanguageModel(model, compiled)
        self.module: nn.Module = model
        self.droppable = True
        self.pool_size = 0

    @abstractmethod
    def visual(self, seeds: list[int], rng: random.Random) -> tuple[Tensor, np.ndarray]:
        """Embeddings ``[batch, visual, width]`` and owners ``[batch, visual]`` of scenes."""

    def loss(self, step: int, shard: int) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy on answer tokens; a short answer's token counts three times."""
        rng = random.Random(f"{self.name} {self.seed} {step}")
        course = draw_course(rng, len(self.model.model.language_model.layers), self.droppable)
        rng = random.Random(f"{self.name} {self.seed} {step} {shard}")
        seeds = [rng.randrange(self.pool_size) for _ in range(self.batch // SHARDS)]
        packed = self.packer.pack([self._turns(scene_of(s), rng) for s in seeds])
        embeddings, owners = self.visual(seeds, rng)
        keep, counted = None, packed.target
        if course.drop is not None:
            kept = choose_kept(owners, course.kept, np.random.default_rng(rng.getrandbits(63)))
            present = [set(o[k].tolist()) for o, k in zip(owners, kept, strict=True)]
            counted = counted & answerable(packed.turns, present, packed)
            keep = torch.from_numpy(kept)
        logits = self.run(embeddings, packed, course, keep)
        each, right = _predict(logits, packed)
        weight = counted.float() * torch.where(packed.kinds == len(LABELS) - 1, 1.0, 3.0)
        loss = (each * weight[:, 1:]).sum() / weight[:, 1:].sum()
        long = packed.kinds[:, 1:] == len(LABELS) - 1
        figures = {
            "short": right[counted[:, 1:] & ~long].float().mean().item(),
            "describe": right[counted[:, 1:] & long].float().mean().item(),
            "kept": course.kept if course.drop else VISUAL,
            "wipe": course.wipe or 0,
        }
        return loss, figures

    def _turns(self, scene: Scene, rng: random.Random) -> list[Turn]:
        """Turns about a scene: one of each kind, or a drill."""
        if self.drill is None:
            return self.packer.sample(scene, rng)
        return self.packer.drill(scene, rng, self.drill)

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Share of right tokens per kind on 32 held-out scenes, unpruned and wiped at 3/4 depth."""
        rng = random.Random(f"{self.name} held out")
        depth = len(self.model.model.language_model.layers)
        figures = {}
        for label, course in (("", Course()), ("wiped ", Course(wipe=depth * 3 // 4))):
            hits, seen = np.zeros(len(LABELS)), np.zeros(len(LABELS))
            for start in range(0, 32, self.batch // SHARDS):
                seeds = [HELD_OUT + start + i for i in range(self.batch // SHARDS)]
                packed = self.packer.pack([self.packer.sample(scene_of(s), rng) for s in seeds])
                logits = self.run(self.visual(seeds, rng)[0], packed, course)
                _, right = _predict(logits, packed)
                target, kinds = packed.target[:, 1:], packed.kinds[:, 1:]
                hits += np.bincount(kinds[target & right], minlength=len(LABELS))
                seen += np.bincount(kinds[target], minlength=len(LABELS))
            ratio = hits / np.maximum(seen, 1)
            figures |= {
                label + name: round(float(r), 3) for name, r in zip(LABELS, ratio, strict=True)
            }
        return figures


def _predict(logits: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every token but the first from the one before, and whether it was right."""
    ahead, target = logits[:, :-1], packed.ids[:, 1:]
    each = F.cross_entropy(ahead.flatten(0, 1), target.flatten(), reduction="none")
    return each.view(target.shape), ahead.argmax(dim=-1) == target


class LanguageStage(PackedStage):
    """The text model alone: a scene's facts in words stand where the picture will be."""

    def __init__(self, *args: object, scenes: int, **options: object) -> None:
        """Take what ``PackedStage`` takes, and the number of training scenes."""
        super().__init__(*args, **options)
        text = self.model.model.language_model
        self.module = nn.ModuleDict({"text": text, "head": self.model.lm_head})
        self.droppable, self.pool_size = False, scenes

    def visual(self, seeds: list[int], rng: random.Random) -> tuple[Tensor, np.ndarray]:
        """Embeddings of the facts, items in random order; no owners."""
        rows = np.full((len(seeds), FACTS), PAD, dtype=np.int64)
        for row, seed in enumerate(seeds):
            scene = scene_of(seed)
            order = rng.sample(range(len(scene.items)), len(scene.items))
            ids = self.packer.encode(fact_text(scene, order))
            rows[row, : len(ids)] = ids
        embeddings = self.model.model.language_model.embed_tokens(torch.from_numpy(rows))
        return embeddings, np.full(rows.shape, -1)


class JointStage(PackedStage):
    """The whole model: pictures through tower and projector in front of the turns."""

    def __init__(self, *args: object, pool: Pool, tower: bool, **options: object) -> None:
        """Take what ``PackedStage`` takes, the pool, and whether the tower learns too."""
        super().__init__(*args, **options)
        self.pool, self.pool_size, self.learns = pool, pool.size, tower
        self.model.model.vision_tower.requires_grad_(tower)
        self._held_out: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def visual(self, seeds: list[int], rng: random.Random) -> tuple[Tensor, np.ndarray]:
        """Projected features of the pictures, and the item that each patch shows."""
        if seeds[0] < HELD_OUT:
            pictures, owners = self.pool.pictures[seeds], np.asarray(self.pool.owners[seeds])
        else:
            drawn = [self._held_out.setdefault(s, draw_with_owners(scene_of(s))) for s in seeds]
            pictures = np.stack([d[0] for d in drawn])
            owners = np.stack([d[1].reshape(-1) for d in drawn])
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            with torch.autocast("cpu", torch.bfloat16):
                hidden = self.model.model.vision_tower(pixel_values=pixels(pictures))
            features = hidden.last_hidden_state[:, 1:].float()
        return self.model.model.multi_modal_projector(features), owners.astype(np.int64)
