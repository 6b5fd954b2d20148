"""Models with the shape of a preset and random weights, and prompts of its usual length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig

from twigkit.backbone.joint_weights import lay_together
from twigkit.bench.methods import Inputs
from twigkit.errors import CapabilityError, InputError
from twigkit.families.resolve import find_adapter
from twigkit.families.sizing import all_presets
from twigkit.interfaces.adapter import HasTiny
from twigkit.interfaces.presets import Preset
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.model import TwigModel
from twigkit.specs.run import TwigSpec

TEXT = 60
"""Text tokens of a prompt at a preset's own size."""

TINY_WORDS = 4
"""Words before and after the picture of a tiny model's prompt."""

HEADS = {"lm": "lm", "medusa": "medusa"}
"""Heads of the twig."""


@dataclass(frozen=True)
class RandomModel:
    """A base of a preset's shape with random weights, a twig on it, and prompts.

    Attributes:
        preset: The preset.
        model: Base and twig.
        prompts: As a processor would return them, one prompt each.
        visual: Visual tokens of a prompt.
        tiny: Whether the family's tiny test model stands in for the published size.
    """

    preset: Preset
    model: TwigModel
    prompts: list[Inputs]
    visual: int
    tiny: bool

    @property
    def budget(self) -> float:
        """Share of the visual tokens to prune to: the paper's least, or half of a tiny model's."""
        return 0.5 if self.tiny else 1 / 9


def random_model(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    prompts: int = 1,
    tiny: bool = False,
    seed: int = 0,
) -> RandomModel:
    """Build a model of a preset's shape with random weights, on a device, and prompts for it.

    Answers never end early: the base has no end token.

    Args:
        name: Name of the preset.
        device: Where it is built; nothing of it is ever in another memory.
        dtype: Precision.
        prompts: How many prompts to make.
        tiny: Build the family's tiny test model instead of the preset's shape.
        seed: Of weights and prompts.

    Raises:
        InputError: If there is no such preset, or its family has no tiny model.
        CapabilityError: If prompts cannot be made up for the family.
    """
    found = all_presets()
    if name not in found:
        raise InputError(f"there is no preset {name!r}; known: {', '.join(found)}")
    preset = found[name][0]
    torch.manual_seed(seed)
    base = _tiny_base(preset) if tiny else _published_base(preset, device, dtype)
    base = base.to(device, dtype)
    settings: Any = base.generation_config
    settings.eos_token_id, settings.pad_token_id = None, 0
    lay_together(base.modules())  # as where a model is loaded
    model = TwigModel(base)
    layers = {"exit_layer": 2, "depth": 2} if tiny else {
        "exit_layer": preset.exit_layer, "depth": preset.depth
    }  # fmt: skip
    model.grow(TwigSpec.parse({"base": preset.base, **layers, "heads": HEADS}))
    assert model.twig is not None
    model.twig.eval()
    lay_together(model.twig.layers)
    made = _tiny_prompts(preset, prompts) if tiny else _prompts(model, preset, prompts, seed)
    placed = [
        {
            key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for key, value in one.items()
        }
        for one in made
    ]
    visual = int(model.stack.visual_positions(placed[0]["input_ids"], placed[0]).sum())
    return RandomModel(preset, model, placed, visual, tiny)


def _published_base(preset: Preset, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Build the base at its published size, its weights drawn as the family draws them."""
    config = AutoConfig.for_model(**preset.config)
    loader = getattr(transformers, find_adapter(config.to_dict()).auto_class)
    with torch.device(device):
        model: nn.Module = loader.from_config(config, dtype=dtype)
    return model


def _tiny_adapter(preset: Preset) -> HasTiny:
    adapter = find_adapter(AutoConfig.for_model(**preset.config).to_dict())
    if not isinstance(adapter, HasTiny):
        raise InputError(f"the family of {preset.name!r} has no tiny model; leave --tiny out")
    return adapter


def _tiny_base(preset: Preset) -> nn.Module:
    """Build the family's tiny model."""
    return spread_weights(_tiny_adapter(preset).tiny().model)


def _tiny_prompts(preset: Preset, count: int) -> list[Inputs]:
    """Make prompts of one picture for the family's tiny model."""
    family = _tiny_adapter(preset).tiny()
    return [family.inputs([TinyRow(("image",), TINY_WORDS, number)]) for number in range(count)]


def _prompts(model: TwigModel, preset: Preset, count: int, seed: int) -> list[Inputs]:
    """Make prompts with the usual visual tokens, as embeddings: the vision tower is left out."""
    stack = model.stack
    visual = model.adapter.visual_tokens(AutoConfig.for_model(**preset.config).to_dict())
    if visual is None or not stack.visual_ids or stack.channels > 1:
        raise CapabilityError(
            f"the prompts of {preset.name!r} cannot be made up, because its positions follow from "
            "pictures; measure it with --tiny, or another preset, such as llava-1.5-7b"
        )
    generator = torch.Generator().manual_seed(seed)
    table: Any = model.get_input_embeddings()
    weight: Tensor = table.weight
    made: list[Inputs] = []
    for _ in range(count):
        words = torch.randint(3, min(stack.visual_ids), (TEXT,), generator=generator)
        picture = torch.full((visual.count,), stack.visual_ids[0])
        ids = torch.cat((words[:1], picture, words[1:]))[None]
        spread = float(weight.detach().float().std())
        states = torch.randn(1, ids.shape[1], weight.shape[1], generator=generator) * spread
        made.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "inputs_embeds": states.to(weight.dtype),
            }
        )
    return made


__all__ = ["RandomModel", "random_model"]
