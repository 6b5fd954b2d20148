"""The last stage: a twig of three layers on the exported base, trained with next-token loss."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from twigkit.demo.pool import HELD_OUT, Pool, scene_of
from twigkit.demo.recipe import decoder
from twigkit.demo.recipe.build import BOS, USER, VISUAL
from twigkit.demo.recipe.joint import FRONT
from twigkit.demo.recipe.packing import LABELS, Packed, Packer
from twigkit.demo.recipe.trainer import SHARDS, Schedule
from twigkit.demo.recipe.vision import pixels
from twigkit.demo.world import draw_with_owners
from twigkit.model import TwigModel
from twigkit.specs.run import TwigSpec

EXIT, DEPTH = 2, 3


class TwigStage:
    """Trains a twig's layers, norm and head on answer tokens; the base only runs its first layers.

    The twig sees every visual token, as it will when it scores them and when it drafts.
    """

    name = "twig"

    def __init__(
        self,
        base: Path,
        packer: Packer,
        pool: Pool,
        schedule: Schedule,
        batch: int,
        seed: int,
        compiled: bool = True,
    ) -> None:
        """Grow the twig on the checkpoint in a folder; ``batch`` is in pictures per step."""
        self.owner = TwigModel.from_pretrained(base, dtype=torch.float32)
        self.base = self.owner.base.requires_grad_(False)
        self.twig = self.owner.grow(TwigSpec(base="demo", exit_layer=EXIT, depth=DEPTH))
        self.module = self.twig
        self.packer, self.pool, self.schedule = packer, pool, schedule
        self.batch, self.seed = batch, seed
        self._layer = torch.compile(decoder.layer, dynamic=False) if compiled else decoder.layer

    def loss(self, step: int, shard: int) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of the answers' tokens."""
        rng = random.Random(f"twig {self.seed} {step} {shard}")
        seeds = [rng.randrange(self.pool.size) for _ in range(self.batch // SHARDS)]
        packed = self.packer.pack([self.packer.sample(scene_of(s), rng) for s in seeds])
        logits = self._logits(self.pool.pictures[seeds], packed)
        target = packed.target[:, 1:]
        each = F.cross_entropy(logits[:, :-1][target], packed.ids[:, 1:][target])
        return each, {}

    @torch.no_grad()
    def check(self) -> dict[str, float]:
        """Share of right tokens on held-out scenes, short answers and descriptions apart."""
        rng = random.Random("twig held out")
        hits: dict[str, list[float]] = {"short": [], "describe": []}
        share = self.batch // SHARDS
        for start in range(0, 32, share):
            seeds = [HELD_OUT + start + i for i in range(share)]
            packed = self.packer.pack([self.packer.sample(scene_of(s), rng) for s in seeds])
            pictures = np.stack([draw_with_owners(scene_of(s))[0] for s in seeds])
            right = self._logits(pictures, packed)[:, :-1].argmax(dim=-1) == packed.ids[:, 1:]
            target, long = packed.target[:, 1:], packed.kinds[:, 1:] == len(LABELS) - 1
            hits["short"] += right[target & ~long].float().tolist()
            hits["describe"] += right[target & long].float().tolist()
        return {name: round(float(np.mean(values)), 4) for name, values in hits.items()}

    def _logits(self, pictures: np.ndarray, packed: Packed) -> Tensor:
        """Logits of the text tokens behind the twig, ``[batch, length, vocabulary]``."""
        with torch.no_grad():
            hidden, table, bias = self._shallow(pictures, packed)
        for module in self.twig.layers:
            weights = decoder.layer_weights(module, torch.bfloat16)
            hidden = self._layer(hidden, weights, table, bias, FRONT + VISUAL)
        text = hidden[:, -packed.ids.shape[1] :]
        return self.twig.head("lm")(self.twig.norm(text))

    def _shallow(self, pictures: np.ndarray, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """States behind the exit layer, rotary tables and attention bias of a batch."""
        model, text = self.base.model, self.base.model.language_model
        seen = model.vision_tower(pixel_values=pixels(pictures)).last_hidden_state[:, 1:]
        start = text.embed_tokens(torch.tensor([[BOS, USER]])).expand(len(seen), -1, -1)
        visual = model.multi_modal_projector(seen)
        hidden = torch.cat((start, visual, text.embed_tokens(packed.ids)), dim=1)
        ahead = torch.arange(FRONT + VISUAL).expand(len(seen), -1)
        positions = torch.cat((ahead, packed.offsets + FRONT + VISUAL), dim=1)
        table, bias = decoder.rotary(positions), packed.bias()
        for module in text.layers[:EXIT]:
            weights = decoder.layer_weights(module, torch.bfloat16)
            hidden = self._layer(hidden, weights, table, bias, FRONT + VISUAL)
        return hidden, table, bias
