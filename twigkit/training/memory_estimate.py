"""What a training process needs in memory, worked out from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from twigkit.errors import CheckpointError
from twigkit.families.resolve import find_adapter
from twigkit.families.sizing import all_presets, on_meta
from twigkit.interfaces.budget import keep_counts, wipe_layer
from twigkit.interfaces.objective import Objective
from twigkit.io.hub import download_options
from twigkit.model import TwigModel
from twigkit.training.spec import DistillationSpec, TrainingSpec
from twigkit.twig.checkpoint import read_spec

FULL, HALF = 4, 2
"""Bytes of a number in full and in half precision."""

SAVED_WIDTHS, SAVED_INNER = 10, 4
"""Numbers per token that a decoder layer keeps for its backward pass: multiples of the hidden
width, which norms and residuals keep in full precision, and of the inner width; measured on layers
with a gated MLP, and a test measures again."""

LOGIT_COPIES = 5
"""Logits that exist at a time per compared token: of twig and base, their softmax, a gradient."""


@dataclass(frozen=True)
class Load:
    """What one micro-batch amounts to.

    Attributes:
        rows: Samples.
        tokens: Tokens of the padded micro-batch.
        visual: Visual tokens among them.
        known: Whether they were counted; else they are the most that the spec allows.
    """

    rows: int
    tokens: int
    visual: int
    known: bool


def sketch(spec: TrainingSpec) -> tuple[TwigModel, str]:
    """Build base and twig without memory for their weights.

    Args:
        spec: The run.

    Returns:
        The model on the meta device, and where its configuration comes from.

    Raises:
        CheckpointError: If there is no configuration, neither at the base's place nor among the
            presets.
    """
    twig = read_spec(spec.twig) if isinstance(spec.twig, str) else spec.twig
    source = spec.base or twig.base
    presets = {preset.base: preset for preset, _ in all_presets().values()}
    if source in presets:
        preset = presets[source]
        config, origin = AutoConfig.for_model(**preset.config), f"the preset {preset.name}"
    else:
        options = download_options(source, None if spec.base else twig.revision)
        try:
            config, origin = AutoConfig.from_pretrained(source, **options), "its configuration"
        except (OSError, ValueError, KeyError) as error:
            line = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"the configuration of {source} cannot be read, and no preset has its shape: {line}"
            ) from error
    model = TwigModel(on_meta(find_adapter(config.to_dict()), config))
    with torch.device("meta"):
        model.grow(twig)
    return model, origin


def estimate(
    spec: TrainingSpec,
    model: TwigModel,
    objective: Objective,
    load: Load,
    saved: int | None = None,
) -> dict[str, int]:
    """Add up what one process holds at the peak of a step.

    Not counted: what the vision tower needs while it runs, and what the allocator wastes.

    Args:
        spec: The run.
        model: Base and twig, with or without their weights.
        objective: What is learnt.
        load: A micro-batch.
        saved: Bytes kept for the backward pass, if they were measured.

    Returns:
        Bytes by what they hold.
    """
    trained = {id(p): p for p in objective.parameters() if p.requires_grad}
    count = sum(p.numel() for p in trained.values())
    frozen = [p for p in model.twig.parameters() if id(p) not in trained] if model.twig else []
    each = base_bytes(spec, model)
    found = {
        "weights of the base": each * _numbers(model.base),
        "weights of the twig": FULL * count + each * sum(p.numel() for p in frozen),
        "gradients": FULL * count,
        "moments of the optimiser": 2 * FULL * count,
    }
    if saved is None:  # a measurement has these copies in it
        saved = _saved(spec, model, load) + HALF * count * (spec.precision == "bf16")
    return found | {"kept for the backward pass": saved, "base at work": _work(spec, model, load)}


def base_bytes(spec: TrainingSpec, model: TwigModel) -> int:
    """Return the bytes of one of the base's numbers; half precision where nobody says."""
    weight = next(iter(model.base.parameters()))
    if not weight.is_meta:
        return int(weight.element_size())
    named = spec.runtime.dtype
    if named == "auto":
        dtype = getattr(model.base.config, "dtype", None)
        return HALF if dtype is None else int(dtype.itemsize)
    return int(getattr(torch, named).itemsize)


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _widths(model: TwigModel) -> tuple[int, int]:
    """Return hidden and inner width of the base's layers."""
    config: Any = model.stack.config
    width = int(config.hidden_size)
    return width, int(getattr(config, "intermediate_size", None) or 4 * width)


def _saved(spec: TrainingSpec, model: TwigModel, load: Load) -> int:
    """Estimate what the twig keeps of a micro-batch for the backward pass."""
    width, inner = _widths(model)
    each = HALF if spec.precision == "bf16" else FULL
    depth = 0 if model.twig is None else model.twig.depth
    if not isinstance(spec.objective, DistillationSpec):
        return FULL * load.visual * width * 4  # the gates alone
    return load.tokens * depth * (FULL * SAVED_WIDTHS * width + each * SAVED_INNER * inner)


def _work(spec: TrainingSpec, model: TwigModel, load: Load) -> int:
    """Estimate what the base needs while it runs without gradients, logits included."""
    width, inner = _widths(model)
    tokens, vocabulary = load.tokens, model.stack.vocabulary
    each = base_bytes(spec, model)
    if isinstance(spec.objective, DistillationSpec):
        logits = FULL * LOGIT_COPIES * spec.objective.chunk * vocabulary
    else:
        tokens = max(tokens, _pruned_tokens(spec, model, load))
        logits = FULL * 2 * 2**25
    return each * tokens * (4 * width + 3 * inner) + logits


def _pruned_tokens(spec: TrainingSpec, model: TwigModel, load: Load) -> int:
    """Count the tokens of all actions that run together, at the largest budget."""
    stage = spec.objective
    if isinstance(stage, DistillationSpec) or model.twig is None:
        return load.tokens
    depth = model.stack.depth
    kept = 0
    if load.visual:
        wipe = wipe_layer(depth, stage.wipe_layer)
        (kept,) = keep_counts(
            [-(-load.visual // load.rows)],
            stage.budgets[-1],
            depth=depth,
            exit_layer=model.twig.exit_layer,
            wipe=wipe,
        )
    text = -(-(load.tokens - load.visual) // load.rows)
    return (stage.chunk or load.rows * stage.group) * (text + kept)
