"""What the pruned base makes of reference answers, for many choices of tokens at once."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt
from twigkit.learning.forward import base_precision, pick_rows, run_base

LOGITS = 2**25
"""Logits that exist at a time: 128 MiB in fp32."""


@torch.no_grad()
def answer_rewards(
    stack: LayerStack,
    samples: Prompt,
    targets: list[Tensor],
    kept: Tensor,
    counts: list[int],
    *,
    layers: tuple[int, int],
    chunk: int | None = None,
) -> Tensor:
    """Return the mean log-probability that the pruned base gives each sample's answer.

    The layers before the cut ran once per sample; all choices of all samples run the rest as
    one batch, or in chunks.

    Args:
        stack: The base.
        samples: Prompts with their answers but for the last token, after the exit layer.
        targets: The answers, ``[tokens]`` long each; their last places predict them.
        kept: Which visual tokens each choice keeps, ``[batch, choices, tokens]`` bool.
        counts: How many that are, per sample.
        layers: Exit and wipe layer: between them the kept tokens are seen, after them no visual
            one.
        chunk: Choices that run at a time; ``None`` for all.

    Returns:
        ``[batch, choices]`` float32.
    """
    exit_layer, wipe = layers
    batch, choices, _ = kept.shape
    inject = {layer: states for layer, states in samples.inject.items() if layer >= exit_layer}
    samples = replace(samples, inject=inject)
    text = [n - v for n, v in zip(samples.lengths, samples.visual_counts, strict=True)]
    rows = torch.arange(batch).repeat_interleave(choices)
    found = []
    size = chunk or len(rows)
    pieces = zip(torch.split(rows, size), torch.split(kept.flatten(0, 1), size), strict=True)
    for part, wanted in pieces:
        mine: list[int] = part.tolist()
        there = part.to(wanted.device)
        stays = samples.valid[there] & (~samples.visual[there] | wanted)
        left, few = [counts[row] for row in mine], [text[row] for row in mine]
        lengths = [a + b for a, b in zip(few, left, strict=True)]
        prompt, _ = run_base(
            stack, pick_rows(samples, part, stays, lengths, left), exit_layer, wipe
        )
        if wipe < stack.depth:
            own = torch.arange(len(mine))
            nothing = [0] * len(mine)
            prompt = pick_rows(prompt, own, prompt.valid & ~prompt.visual, few, nothing)
            prompt, _ = run_base(stack, prompt, wipe, stack.depth)
        found.append(_mean_log_probability(stack, prompt.hidden, [targets[row] for row in mine]))
    return torch.cat(found).view(batch, choices)


def _mean_log_probability(stack: LayerStack, hidden: Tensor, targets: list[Tensor]) -> Tensor:
    """Score the answers that the last places of some rows predict, ``[rows]`` float32."""
    device, tokens = hidden.device, hidden.shape[1]
    sizes = torch.tensor([len(target) for target in targets])
    rows = torch.arange(len(targets)).repeat_interleave(sizes)
    offsets = torch.cat([torch.arange(len(target)) - len(target) for target in targets])
    states = hidden[rows.to(device), (tokens + offsets).to(device)]
    wanted = torch.cat(targets).to(device)
    size = max(1, LOGITS // stack.vocabulary)
    found = []
    with base_precision(device):
        pieces = zip(torch.split(states, size), torch.split(wanted, size), strict=True)
        for part, target in pieces:
            logits = stack.head(stack.norm(part)).float()
            entropy = F.cross_entropy(logits, target.to(logits.device), reduction="none")
            found.append(-entropy.to(device))
    sums = torch.zeros(len(targets), device=device).index_add_(0, rows.to(device), torch.cat(found))
    return sums / sizes.to(device)
