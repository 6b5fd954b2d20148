"""Trials of a decoder layer: whether a way to run it gives its numbers, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from twigkit.backbone.attention_kernel import SDPA, kernels_for
from twigkit.backbone.fused_layer import FusedLayer
from twigkit.backbone.graph_capture import capture
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_context import LayerContext
from twigkit.backbone.masks import step_masks
from twigkit.backbone.rotary import Rope

if TYPE_CHECKING:
    from twigkit.backbone.layer_stack import LayerStack

_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9, torch.float16: 4e-3, torch.bfloat16: 4e-2}

_STEPS = ((1, 1), (2, 3), (1, 24), (1, 60))
"""Rows and nodes of steps that are compared: each runs in blocks of another size."""

_ROUNDS, _RUNS = 5, 4
"""Timings of a pass, and runs of each."""

Run = Callable[[Tensor, LayerContext], Tensor]
"""Runs a layer: states and context of a pass in, states out."""

Context = Callable[[], LayerContext]
"""Makes the context of a pass anew."""

Pass = tuple[Tensor, Context]
"""States, ``[batch, tokens, width]``, and what makes the context of their pass."""


def trials_of(stack: LayerStack, fused: FusedLayer) -> Iterator[Pass]:
    """Make passes to compare: a prompt, then steps of one row and of ever more nodes.

    Args:
        stack: The base.
        fused: A layer of it, or on it.
    """
    before = 7
    yield prompt_pass(stack, fused, 2, before)
    for batch, nodes in _STEPS:
        yield step_pass(stack, fused, batch, nodes, before)


def prompt_pass(
    stack: LayerStack, fused: FusedLayer, batch: int, tokens: int, kernel: str = SDPA
) -> Pass:
    """Make the pass of random states as a prompt, which keeps no keys and values.

    Args:
        stack: The base.
        fused: A layer of it, or on it.
        batch: Rows.
        tokens: Tokens of each row.
        kernel: What computes attention.
    """
    hidden, rope = _states(stack, fused, batch, tokens)
    masks = {fused.window: None}
    return hidden, partial(LayerContext.of, hidden, rope, masks, None, kernel)


def step_pass(
    stack: LayerStack, fused: FusedLayer, batch: int, nodes: int, before: int, kernel: str = SDPA
) -> Pass:
    """Make the pass of random nodes after a random prompt, each seeing those before it.

    Args:
        stack: The base.
        fused: A layer of it, or on it.
        batch: Rows.
        nodes: Nodes of each row.
        before: Tokens of the prompt.
        kernel: What computes attention.
    """
    hidden, rope = _states(stack, fused, batch, nodes)
    prompt = _drawn(fused, 2, batch, *fused.held(before))
    return hidden, partial(_step_context, fused, hidden, rope, prompt, kernel, stack.query_groups)


@torch.inference_mode()
def agree(stock: Run, fused: Run, hidden: Tensor, context: Context) -> bool:
    """Say whether two ways to run a layer give the same numbers, but for rounding.

    Args:
        stock: The one.
        fused: The other.
        hidden: States of a pass.
        context: Makes its context.
    """
    with kernels_for(hidden.device):  # as while an answer is generated
        expected = stock(hidden, context())
        found = fused(hidden, context())
    scale = expected.abs().max().clamp(min=1e-6)
    gap = (expected - found).abs().max() / scale
    return bool(gap <= _TOLERANCE.get(expected.dtype, 0.0))


def is_faster(one: Run, other: Run, passes: Iterable[Pass]) -> bool:
    """Say whether one way to run a layer takes less of the device's time than another, in sum.

    Args:
        one: The way in question.
        other: What else would run.
        passes: The passes.
    """
    pairs = [
        [pass_seconds(run, hidden, context()) for run in (one, other)] for hidden, context in passes
    ]
    first, second = map(sum, zip(*pairs, strict=True))
    return first < second


@torch.inference_mode()
def pass_seconds(run: Run, hidden: Tensor, context: LayerContext) -> float:
    """Return the seconds that a pass takes, the least of some rounds; on a GPU as a CUDA graph.

    Args:
        run: Runs the layer.
        hidden: States of the pass.
        context: Its context.
    """
    if hidden.is_cuda:
        with torch.cuda.device(hidden.device), kernels_for(hidden.device):
            return _replay_seconds(run, hidden, context)
    run(hidden, context)
    marks = [time.perf_counter()]
    for _ in range(_ROUNDS):
        for _ in range(_RUNS):
            run(hidden, context)
        marks.append(time.perf_counter())
    return min(after - before for before, after in pairwise(marks)) / _RUNS


def _replay_seconds(run: Run, hidden: Tensor, context: LayerContext) -> float:
    """Capture a pass and time its replays by the device's clock."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(hidden, context)
    torch.cuda.current_stream().wait_stream(stream)
    graph = capture(partial(run, hidden, context), stream, torch.cuda.graph_pool_handle())
    event: Any = torch.cuda.Event
    marks = [event(enable_timing=True) for _ in range(_ROUNDS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        for _ in range(_RUNS):
            graph.replay()
        mark.record()
    torch.cuda.synchronize()
    least = min(float(before.elapsed_time(after)) for before, after in pairwise(marks))
    return least / 1000 / _RUNS


def _drawn(fused: FusedLayer, *shape: int) -> Tensor:
    """Draw numbers, always the same, where a layer is and in its precision."""
    weight = next(fused.source.parameters())
    random = torch.Generator().manual_seed(0)
    found = torch.randn(shape, generator=random, dtype=torch.float32, device="cpu")
    return found.to(weight.device, weight.dtype)


def _states(stack: LayerStack, fused: FusedLayer, batch: int, tokens: int) -> tuple[Tensor, Rope]:
    """Draw states of a pass and rotary positions for them."""
    hidden = _drawn(fused, batch, tokens, int(stack.config.hidden_size))
    random = torch.Generator().manual_seed(1)
    shape = (stack.channels, batch, tokens)
    positions = torch.randint(0, 99, shape, generator=random, device="cpu").sort(-1).values
    return hidden, stack.rope(hidden, positions.to(hidden.device))


def _step_context(
    fused: FusedLayer,
    hidden: Tensor,
    rope: Rope,
    prompt: Tensor,
    kernel: str,
    groups: int | dict[int | None, int],
) -> LayerContext:
    """Make the context of a step after a prompt, whose keys and values are given."""
    batch, tokens, _ = hidden.shape
    before, device, layer = prompt.shape[3], hidden.device, fused.index
    segment = Segment(layer, layer + 1, before + tokens, bucketed=True)
    index = torch.arange(before, device=device).expand(batch, -1)
    segment.begin_prefill(index, torch.ones_like(index, dtype=torch.bool), [before] * batch)
    segment.update(*prompt, layer)
    nodes = torch.arange(before, before + tokens, device=device).expand(batch, -1)
    segment.begin_step(nodes)
    masks = step_masks(segment, None, (fused.window,), hidden.dtype, groups)
    return LayerContext.of(hidden, rope, masks, segment, kernel)


__all__ = [
    "Pass",
    "Run",
    "agree",
    "is_faster",
    "pass_seconds",
    "prompt_pass",
    "step_pass",
    "trials_of",
]
