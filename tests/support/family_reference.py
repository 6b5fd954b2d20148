"""The reference that pruning is held to: every token stays, and the dropped ones are masked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt


class FullLength:
    """A base whose own layers run over the whole sequence; nothing is cached, nothing removed.

    Attributes:
        stack: The base; only its prompt embedding, positions and windows are used.
        prompt: The embedded prompt.
        alive: From which layer on which positions are seen, ``{layer: [batch, prompt] bool}``.
    """

    def __init__(self, stack: LayerStack, prompt: Prompt, alive: dict[int, Tensor]) -> None:
        self.stack, self.prompt, self.alive = stack, prompt, alive

    def extend(self, token: Tensor) -> None:
        """Append a generated token to every row."""
        prompt, step = self.prompt, self.prompt.index[:, -1:] + 1
        yes, no = (
            torch.ones_like(token, dtype=torch.bool),
            torch.zeros_like(token, dtype=torch.bool),
        )
        states = self.stack.embed_tokens(token)
        rope = (prompt.rope[:, :, -1:].amax(0) + 1).expand(self.stack.channels, -1, -1)
        blocks = prompt.blocks
        self.prompt = replace(
            prompt,
            hidden=torch.cat((prompt.hidden, states), 1),
            visual=torch.cat((prompt.visual, no), 1),
            placeholder=torch.cat((prompt.placeholder, no), 1),
            valid=torch.cat((prompt.valid, yes), 1),
            rope=torch.cat((prompt.rope, rope), 2),
            index=torch.cat((prompt.index, step), 1),
            inject={
                layer: torch.cat((extra, torch.zeros_like(states)), 1)
                for layer, extra in prompt.inject.items()
            },
            blocks=None if blocks is None else torch.cat((blocks, torch.full_like(step, -1)), 1),
        )
        self.alive = {layer: torch.cat((seen, yes), 1) for layer, seen in self.alive.items()}

    def logits(self) -> Tensor:
        """Logits after the last position, ``[batch, vocabulary]``."""
        stack, prompt = self.stack, self.prompt
        rope = stack.rope(prompt.hidden, prompt.rope)
        hidden = prompt.hidden
        for number, layer in enumerate(stack.text.layers):
            hidden = layer(
                hidden,
                attention_mask=additive(self._mask(number)),
                position_embeddings=rope[stack.rope_key(number)],
                **stack.layer_arguments(),
            )
            if number in prompt.inject:
                hidden = hidden + prompt.inject[number]
        return stack.head(stack.norm(hidden[:, -1]))

    def _mask(self, layer: int) -> Tensor:
        """Who sees whom in a layer, ``[batch, 1, tokens, tokens]`` bool."""
        prompt, window = self.prompt, self.stack.window(layer)
        alive = prompt.valid
        for since, seen in self.alive.items():
            if layer >= since:
                alive = alive & seen
        tokens = alive.shape[1]
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(len(alive), -1, -1)
        near = torch.ones_like(seen)
        if window is not None:
            near = prompt.index[:, :, None] - prompt.index[:, None, :] < window
        if prompt.blocks is None or (prompt.blocks_slide and window is None):
            seen = seen & near
        else:
            same = prompt.blocks[:, :, None] == prompt.blocks[:, None, :]
            same = same & (prompt.blocks[:, :, None] >= 0)
            seen = (seen | same) & near if prompt.blocks_slide else (seen & near) | same
        # a row that sees nothing gives no numbers, and the padding's rows do not matter
        return ((seen & alive[:, None, :]) | torch.eye(tokens, dtype=torch.bool))[:, None]


def additive(mask: Tensor) -> Tensor:
    """A bool mask in the form that every attention function of transformers takes."""
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


def greedy(reference: FullLength, count: int) -> tuple[list[Tensor], Tensor]:
    """Decode greedily; return each step's logits and the tokens, ``[batch, count]``."""
    steps, tokens = [], []
    for _ in range(count):
        steps.append(reference.logits())
        tokens.append(steps[-1].argmax(-1, keepdim=True))
        reference.extend(tokens[-1])
    return steps, torch.cat(tokens, 1)


def eager_row(twig: Any, stack: LayerStack, prompt: Prompt) -> Tensor:
    """Attention of the last twig layer's last row, from transformers' eager implementation.

    Returns:
        Averaged over heads, ``[batch, prompt]``.
    """
    full = FullLength(stack, prompt, {})
    rope = stack.rope(prompt.hidden, prompt.rope)
    hidden = prompt.hidden
    steps = [(stack.text.layers[i], i) for i in range(twig.exit_layer)]
    steps += list(zip(twig.layers, twig.sources, strict=True))
    last = steps[-1][0]
    caught: list[Tensor] = []
    hook = last.self_attn.register_forward_hook(lambda _m, _a, out: caught.append(out[1]))
    config = last.self_attn.config
    kept = config._attn_implementation
    for layer, source in steps:
        mask = additive(full._mask(source))
        if layer is last:
            config._attn_implementation = "eager"
        hidden = layer(
            hidden, attention_mask=mask, position_embeddings=rope[stack.rope_key(source)]
        )
        if source in prompt.inject:
            hidden = hidden + prompt.inject[source]
    hook.remove()
    config._attn_implementation = kept
    return caught[0][:, :, -1].mean(1)
