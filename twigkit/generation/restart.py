"""Bases that begin anew: at one length they throw their cache away and pass the whole text again.

Some bases with two rotary tables do, so that no keys of the first table are left in the cache.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from twigkit.backbone.prompt import Prompt
from twigkit.errors import FamilyWarning

_FIELD = "original_max_position_embeddings"
_ALONE = "next_sequence_length"


def restart_length(model: nn.Module) -> int | None:
    """Return the tokens, padding included, at which a base's own ``generate`` begins anew.

    It does if its ``prepare_inputs_for_generation`` compares the length with the field of the
    configuration that says where the second rotary table begins.

    Args:
        model: The base.

    Returns:
        The number, or ``None`` if it never does.
    """
    config: Any = getattr(model, "config", None)
    before = getattr(config, _FIELD, None)
    if before is None or _FIELD not in _words(model):
        return None
    return int(before) + 1


def warn_of_restart(model: nn.Module) -> None:
    """Warn where a base's own ``generate`` passes the last token alone when it begins anew.

    Some versions of transformers do: they throw the cache away, but their
    ``prepare_inputs_for_generation`` leaves ``next_sequence_length`` as it is.

    Args:
        model: A base that begins anew.
    """
    if _ALONE not in _words(model):
        warnings.warn(
            f"transformers {transformers.__version__} forgets the prompt where "
            f"{type(model).__name__} changes its rotary table: its own generate passes the last "
            "token alone from there on. Here the whole text is passed, as later versions do; "
            "upgrade transformers to compare the two",
            FamilyWarning,
            stacklevel=3,
        )


def _words(model: nn.Module) -> tuple[object, ...]:
    """Return the names and constants of how a base prepares the inputs of a step.

    Transformers wraps the method while it renames an argument of it.
    """
    method = getattr(type(model), "prepare_inputs_for_generation", None)
    code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
    return () if code is None else (*code.co_names, *code.co_consts)


def with_answer(
    prompt: Prompt, rows: Sequence[int], tails: Sequence[Sequence[int]], embedded: Tensor
) -> Prompt:
    """Append what was generated to a prompt.

    Args:
        prompt: The prompt before the first layer, unpruned.
        rows: Which of its rows, in their new order.
        tails: What was generated for them, equally long.
        embedded: The same embedded, ``[rows, tokens, width]``.

    Returns:
        The longer prompt; its rotary tables are those of one more token.
    """
    device = prompt.hidden.device
    everything = torch.arange(prompt.hidden.shape[1], device=device).expand(len(rows), -1)
    order = torch.tensor(rows, device=device)
    picked = prompt.select(
        everything,
        prompt.valid[order],
        [prompt.lengths[row] for row in rows],
        [prompt.visual_counts[row] for row in rows],
        order,
    )
    ids = torch.tensor(tails, dtype=picked.ids.dtype, device=device).reshape(len(rows), -1)
    count = ids.shape[1]
    steps = torch.arange(count, device=device)
    no = torch.zeros_like(ids, dtype=torch.bool)
    rope = (picked.next_rope[:, None] + steps).expand(len(picked.rope), -1, -1)
    inject = {
        layer: torch.cat((states, states.new_zeros(len(rows), count, states.shape[2])), 1)
        for layer, states in picked.inject.items()
    }
    blocks, vision = picked.blocks, picked.vision
    return replace(
        picked,
        ids=torch.cat((picked.ids, ids), 1),
        hidden=torch.cat((picked.hidden, embedded.to(picked.hidden.dtype)), 1),
        visual=torch.cat((picked.visual, no), 1),
        placeholder=torch.cat((picked.placeholder, no), 1),
        valid=torch.cat((picked.valid, ~no), 1),
        rope=torch.cat((picked.rope, rope), 2),
        index=torch.cat((picked.index, picked.next_index[:, None] + steps), 1),
        next_rope=picked.next_rope + count,
        next_index=picked.next_index + count,
        lengths=[length + count for length in picked.lengths],
        span=picked.span + count,
        inject=inject,
        blocks=None if blocks is None else torch.cat((blocks, ids.new_full(ids.shape, -1)), 1),
        table=int(prompt.next_rope.max()) + count + 1,
        vision=None if vision is None else vision.mapped(lambda part: _longer(part, count)),
    )


def _longer(values: Tensor, count: int) -> Tensor:
    """Append zeros for further tokens, ``[batch, tokens, ...]``."""
    return torch.cat((values, values.new_zeros(len(values), count, *values.shape[2:])), 1)


__all__ = ["restart_length", "warn_of_restart", "with_answer"]
