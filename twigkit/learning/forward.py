"""Passes of whole samples through base layers and twig, without a cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.masks import prompt_masks
from twigkit.backbone.packing import real_last
from twigkit.backbone.probes import RowProbe, row_probe
from twigkit.backbone.prompt import Prompt, place_inputs
from twigkit.learning.batch import Batch, Turn
from twigkit.twig.module import Twig


def base_precision(device: torch.device | str) -> AbstractContextManager[Any]:
    """Compute as the weights are: the base's numbers must be those of inference."""
    return torch.autocast(torch.device(device).type, enabled=False)


@torch.no_grad()
def embed_batch(stack: LayerStack, batch: Batch) -> Prompt:
    """Embed a batch with the base, answers included.

    Args:
        stack: The base.
        batch: Whole samples.

    Returns:
        Their states before the first layer, on the device of the base's embedding; blocks of tokens
        that see each other both ways end where an answer begins.
    """
    with base_precision(stack.entry):
        prompt = stack.embed_prompt(**place_inputs(batch.inputs, stack.entry, stack.dtype))
    if prompt.blocks is None:
        return prompt
    return replace(prompt, blocks=_ended(prompt.blocks, batch.turns))


def _ended(blocks: Tensor, turns: Sequence[Sequence[Turn]]) -> Tensor:
    """End every block where an answer begins, since generated tokens are in none.

    Where a whole prompt is one block, the answer would be seen from where it is predicted.
    """
    begun = torch.zeros_like(blocks)
    for row, own in enumerate(turns):
        for turn in own:
            begun[row, turn.start :] += 1
    number = blocks + 1
    first = begun.new_full((len(blocks), int(number.max()) + 1), len(begun[0]))
    first = first.scatter_reduce(1, number, begun, "amin")
    return blocks.masked_fill(begun != first.gather(1, number), -1)


@torch.no_grad()
def run_base(
    stack: LayerStack,
    prompt: Prompt,
    first: int,
    last: int,
    *,
    rows: Tensor | None = None,
    probed: Collection[int] = (),
) -> tuple[Prompt, dict[int, RowProbe]]:
    """Run base layers over a prompt, without gradients.

    Args:
        stack: The base.
        prompt: The tokens, with their states before the first layer.
        first: First layer.
        last: Layer to stop before.
        rows: Positions whose attention is read, ``[batch, rows]`` long.
        probed: Layers whose attention is read.

    Returns:
        The prompt after the last layer, and the probes by layer.
    """
    found: dict[int, RowProbe] = {}
    for start, stop in stack.spans(first, last):
        prompt = prompt.to(stack.device(start))
        here = [layer for layer in probed if start <= layer < stop]
        probes = {
            layer: row_probe(prompt, rows, stack.window(layer))[0]
            for layer in here
            if rows is not None
        }
        with base_precision(prompt.hidden.device):
            hidden = stack.run(
                prompt.hidden,
                start,
                stop,
                rope=stack.rope(prompt.hidden, prompt.rope),
                masks=prompt_masks(prompt, stack.windows(start, stop)),
                inject=prompt.inject,
                probes=probes,
            )
        prompt = replace(prompt, hidden=hidden)
        found |= probes
    return prompt, found


def run_twig(
    stack: LayerStack, twig: Twig, prompt: Prompt, rows: Tensor | None = None
) -> tuple[Tensor, RowProbe | None]:
    """Run the twig over a prompt, with gradients if they are enabled.

    Args:
        stack: The base.
        twig: The twig.
        prompt: The tokens, with their states after the exit layer.
        rows: Positions that the last layer's probe reads, ``[batch, rows]`` long.

    Returns:
        States after the last layer, before the norm, and the probe if there are rows.
    """
    weight = next(twig.parameters())
    prompt = prompt.to(weight.device)
    hidden = prompt.hidden.to(weight.dtype)
    probe = None
    if rows is not None:
        probe, _ = row_probe(prompt, rows, stack.window(twig.sources[-1]))
    states = twig.run(
        hidden,
        stack,
        rope=stack.rope(hidden, prompt.rope),
        masks=prompt_masks(prompt, twig.windows(stack)),
        inject=prompt.inject,
        probe=probe,
    )
    return states, probe


def pick_rows(
    prompt: Prompt, rows: Tensor, stays: Tensor, lengths: list[int], visual_counts: list[int]
) -> Prompt:
    """Return some rows of a prompt, each perhaps several times, with some of their tokens.

    Args:
        prompt: The tokens.
        rows: Row of each new row, ``[picked]`` long.
        stays: Which of its tokens stay, ``[picked, tokens]`` bool.
        lengths: How many stay.
        visual_counts: How many of them are visual.

    Returns:
        The tokens at their original positions, padded on the left.
    """
    order = real_last(stays, max(lengths))
    alive = stays.gather(1, order)
    return prompt.select(order, alive, lengths, visual_counts, rows.to(order.device))


def turns_with_visuals(batch: Batch, stack: LayerStack) -> list[list[bool]]:
    """Say of every turn whether a visual token lies before its answer, by row.

    Args:
        batch: The samples; nothing is run.
        stack: The base, which knows its visual tokens.
    """
    ids = batch.inputs["input_ids"]
    visual = stack.visual_positions(ids, batch.inputs)
    mask = batch.inputs.get("attention_mask")
    if mask is not None:
        visual = visual & mask.bool()
    first = torch.where(visual.any(1), visual.long().argmax(1), ids.shape[1]).tolist()
    return [
        [place <= turn.query for turn in turns]
        for place, turns in zip(first, batch.turns, strict=True)
    ]


def query_rows(batch: Batch) -> Tensor:
    """Return the score row of every turn, ``[batch, most turns]`` long; spare entries are 0.

    It is the last prompt token's: the row that scores at inference, when the answer is not there.
    """
    most = max([1, *(len(turns) for turns in batch.turns)])
    rows = [[turn.query for turn in turns] for turns in batch.turns]
    return torch.tensor([row + [0] * (most - len(row)) for row in rows])
