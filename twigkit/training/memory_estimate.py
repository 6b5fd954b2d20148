"""What a training process needs in memory, worked out from shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig

from twigkit.errors import CheckpointError, first_line
from twigkit.families.loading import read_config
from twigkit.families.resolve import find_adapter
from twigkit.families.sizing import all_presets, on_meta
from twigkit.interfaces.objective import BatchSize, Objective, Workload
from twigkit.io.files import expanded
from twigkit.io.hub import download_options
from twigkit.model import TwigModel
from twigkit.training.spec import TrainingSpec
from twigkit.twig.checkpoint import read_spec

FULL, HALF = 4, 2
"""Bytes of a number in full and in half precision."""

SAVED_WIDTHS, SAVED_INNER = 10, 4
"""Numbers per token that a decoder layer keeps for its backward pass: multiples of the hidden
width, which norms and residuals keep in full precision, and of the inner width; measured on layers
with a gated MLP, and a test measures again."""


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
    source = str(expanded(spec.base or twig.base))
    presets = {preset.base: preset for preset, _ in all_presets().values()}
    if source in presets:
        preset = presets[source]
        config, origin = AutoConfig.for_model(**preset.config), f"the preset {preset.name}"
    else:
        revision = None if spec.base else twig.revision
        options = download_options(source, revision)
        try:
            read_config(source, revision)
            config, origin = AutoConfig.from_pretrained(source, **options), "its configuration"
        except Exception as error:  # what is wrong with a file has as many types as lines read it
            raise CheckpointError(
                f"the configuration of {source} cannot be read, and no preset has its shape: "
                f"{first_line(error)}"
            ) from error
    model = TwigModel(on_meta(find_adapter(config.to_dict()), config))
    with torch.device("meta"):
        model.grow(twig)
    return model, origin


def estimate(
    spec: TrainingSpec,
    model: TwigModel,
    objective: Objective,
    size: BatchSize,
    saved: int | None = None,
) -> dict[str, int]:
    """Add up what one process holds at the peak of a step.

    Not counted: what the vision tower needs while it runs, and what the allocator wastes.

    Args:
        spec: The run.
        model: Base and twig, with or without their weights.
        objective: What is learnt.
        size: Size of a micro-batch.
        saved: Bytes kept for the backward pass, if they were measured.

    Returns:
        Bytes by what they hold.
    """
    trained = {id(p): p for p in objective.parameters() if p.requires_grad}
    count = sum(p.numel() for p in trained.values())
    frozen = [p for p in model.twig.parameters() if id(p) not in trained] if model.twig else []
    each = base_bytes(spec, model)
    found = {
        # Those of a quantised base differ in size.
        "weights of the base": sum(
            weight.numel() * (each if weight.is_meta else weight.element_size())
            for weight in model.base.parameters()
        ),
        "weights of the twig": FULL * count + each * sum(p.numel() for p in frozen),
        "gradients": FULL * count,
        "moments of the optimiser": 2 * FULL * count,
    }
    work = objective.workload(size)
    if saved is None:  # a measurement has these copies in it
        saved = _saved(spec, model, work) + HALF * count * (spec.precision == "bf16")
    return found | {"kept for the backward pass": saved, "base at work": _work(spec, model, work)}


def base_bytes(spec: TrainingSpec, model: TwigModel) -> int:
    """Return the bytes of one of the base's numbers; half precision where the spec does not say."""
    weight = next(iter(model.base.parameters()))
    if not weight.is_meta:
        return int(weight.element_size())
    named = spec.runtime.dtype
    if named == "auto":
        dtype = getattr(model.base.config, "dtype", None)
        return HALF if dtype is None else int(dtype.itemsize)
    return int(getattr(torch, named).itemsize)


def _widths(model: TwigModel) -> tuple[int, int]:
    """Return hidden and inner width of the base's layers."""
    config: Any = model.stack.config
    width = int(config.hidden_size)
    return width, int(getattr(config, "intermediate_size", None) or 4 * width)


def _saved(spec: TrainingSpec, model: TwigModel, work: Workload) -> int:
    """Estimate what is kept of a micro-batch for the backward pass."""
    width, inner = _widths(model)
    each = HALF if spec.precision == "bf16" else FULL
    depth = 0 if model.twig is None else model.twig.depth
    layer = FULL * SAVED_WIDTHS * width + each * SAVED_INNER * inner
    return work.twig_tokens * depth * layer + FULL * work.kept


def _work(spec: TrainingSpec, model: TwigModel, work: Workload) -> int:
    """Estimate what the base needs while it runs without gradients, logits included."""
    width, inner = _widths(model)
    each = base_bytes(spec, model)
    return each * work.base_tokens * (4 * width + 3 * inner) + FULL * work.logits
