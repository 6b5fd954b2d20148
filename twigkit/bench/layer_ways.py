"""Ways to run a decoder layer, timed beside each other in passes as decoding and prefill make them.

A layer is run through its own modules, fused, with twigkit's kernels, with other kernels of
attention, and as ``torch.compile`` makes it. What a device is fastest with can be seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from twigkit.backbone.attention_kernel import SDPA, flash_obstacle
from twigkit.backbone.cuda_layer import CudaLayer
from twigkit.backbone.fused_layer import FusedLayer, fits
from twigkit.backbone.kernel_device import available
from twigkit.backbone.layer_trial import Pass, Run, pass_seconds, prompt_pass, step_pass
from twigkit.backbone.layer_view import layer_view
from twigkit.backbone.stock_layer import StockLayer
from twigkit.bench.memory import token_bytes
from twigkit.errors import CapabilityError
from twigkit.model import TwigModel

OWN, FUSED, KERNELS, COMPILED = "own modules", "fused", "twigkit's kernels", "torch.compile"

_PROMPT = "prompt"

NODES = (3, 16, 60)
"""Nodes of a step: a path, a small tree, and the largest of the trees by default."""

_COMPILED = (1, NODES[-1])
"""Nodes of the steps that are compiled; each takes some seconds to compile."""


@dataclass(frozen=True)
class LayerCost:
    """One layer in one pass.

    Attributes:
        step: What the pass is.
        way: How the layer is run.
        seconds: What it takes; ``None`` if it cannot be run so.
        bytes: Weights, keys and values that it reads.
        problem: Why it cannot be run so.
    """

    step: str
    way: str
    seconds: float | None
    bytes: int
    problem: str = ""


def measure_layer(
    model: TwigModel, prompt: int, *, rows: int, progress: Callable[[str], None] | None = None
) -> Iterator[LayerCost]:
    """Time the last layer of a base in every pass and way; each is yielded as it is measured.

    Args:
        model: The base.
        prompt: Tokens of a prompt.
        rows: Rows of a batch.
        progress: Told what is being run.

    Raises:
        CapabilityError: If the layer has another form than the common one.
    """
    stack, place = model.stack, model.stack.depth - 1
    layer: Any = stack.text.layers[place]
    if not fits(layer):
        raise CapabilityError(f"{type(layer).__name__} runs through its own modules alone")
    settings = stack.window(place), stack.rope_key(place), stack.unrotate
    fused = FusedLayer(layer, *settings)
    weights = sum(weight.nbytes for weight in layer.parameters())
    kept = sum(token_bytes(model)) // stack.depth
    soon: list[tuple[Any, ...]] = []
    late: list[tuple[Any, ...]] = []  # what is compiled for many seconds: time may run out
    for name, batch, nodes in _passes(prompt, rows):
        make = partial(prompt_pass, stack, fused, batch, nodes)
        tokens = batch * nodes
        if name != _PROMPT:
            make = partial(step_pass, stack, fused, batch, nodes, prompt)
            tokens = batch * (prompt + nodes)
        for way, (run, kernel) in _ways(model, fused, name == _PROMPT).items():
            if way != COMPILED or (batch == 1 and nodes in _COMPILED):
                compiles = way == COMPILED or kernel == "flex"
                (late if compiles else soon).append(
                    (name, way, run, kernel, make, weights + tokens * kept)
                )
    for name, way, run, kernel, make, read in (*soon, *late):
        if progress is not None:
            progress(f"{name}, {way}")
        seconds, problem = _time(run, make, kernel)
        yield LayerCost(name, way, seconds, read, problem)


def _passes(prompt: int, rows: int) -> list[tuple[str, int, int]]:
    """Return the name, the rows and the nodes of each pass."""
    steps = [("one token", 1, 1)] + [(f"{nodes} nodes", 1, nodes) for nodes in NODES]
    return [*steps, (f"one token of {rows} prompts", rows, 1), (_PROMPT, 1, prompt)]


def _ways(model: TwigModel, fused: FusedLayer, prompt: bool) -> dict[str, tuple[Run, str]]:
    """Return by name what runs the layer, and with which kernel of attention."""
    stack, layer = model.stack, fused.source
    view = layer_view(layer, stack.layer_config, frozen=True)
    more = stack.unrotate, stack.layer_arguments
    own = StockLayer(layer, fused.window, fused.rope_key, view, *more)
    ways: dict[str, tuple[Run, str]] = {OWN: (own, SDPA), FUSED: (fused, SDPA)}
    best = fused
    if available(model.device):
        best = CudaLayer(layer, fused.window, fused.rope_key, stack.unrotate)
        ways[KERNELS] = (best, SDPA)
    if not prompt:
        ways[f"{_name(best)}, flex"] = (best, "flex")
    width = stack.head_shape(fused.index)[1]
    if flash_obstacle(model.device, stack.dtype, width) is None:
        ways[f"{_name(best)}, flash-attn"] = (best, "flash")
    if model.device.type == "cuda" and not prompt:
        ways[COMPILED] = (torch.compile(fused, dynamic=False), SDPA)
    return ways


def _name(layer: FusedLayer) -> str:
    return KERNELS if isinstance(layer, CudaLayer) else FUSED


def _time(run: Run, make: Callable[..., Pass], kernel: str) -> tuple[float | None, str]:
    """Time a pass, or say why it cannot be run."""
    try:
        hidden, context = make(kernel=kernel)
        return pass_seconds(run, hidden, context()), ""
    except Exception as error:  # kernels, compilers, memory: as many types as machines
        line = str(error).strip().partition("\n")[0]
        return None, f"{type(error).__name__}: {line}"[:200]


__all__ = ["NODES", "LayerCost", "measure_layer"]
