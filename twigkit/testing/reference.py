"""References that owe nothing to twigkit's layer stack: the model's own forward and generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def own_tokens(model: nn.Module, inputs: dict[str, Any], new_tokens: int) -> list[list[int]]:
    """Return what the model's own greedy ``generate`` adds to each row, its end token included.

    Args:
        model: A model that nothing is attached to.
        inputs: Processor outputs, padded on the left.
        new_tokens: Most tokens per row.
    """
    width = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        output = model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=new_tokens, do_sample=False, num_beams=1
        )
    return [_until_end(row, end_tokens(model)) for row in output[:, width:].tolist()]


def end_tokens(model: nn.Module) -> frozenset[int]:
    """Return the token ids that end a row, from the model's generation settings."""
    given: Any = model.generation_config.eos_token_id  # type: ignore[union-attr]
    return frozenset(() if given is None else [given] if isinstance(given, int) else given)


def _until_end(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """Cut off what stands after the first end token."""
    for place, token in enumerate(tokens):
        if token in ends:
            return tokens[: place + 1]
    return tokens


def masked_logits(
    model: nn.Module,
    layers: Sequence[nn.Module],
    inputs: dict[str, Any],
    tokens: Sequence[int],
    kept: Sequence[Tensor | None],
    answers: Mapping[str, int] | None = None,
) -> Tensor:
    """Run the model's own forward over one whole prompt, hiding from each layer what it lost.

    Nothing is dropped and nothing is renumbered: a token that is gone at a layer is merely
    invisible there to every other token. That is what pruning must be equal to.

    Args:
        model: A model that nothing is attached to.
        layers: Its own decoder layers.
        inputs: Processor outputs of one prompt without padding.
        tokens: Text tokens after the prompt.
        kept: Prompt positions that each layer may see, ``[prompt]`` bool; ``None`` for all.
        answers: What these tokens have in inputs that tell kinds of tokens apart; see
            :func:`extended`.

    Returns:
        Logits after every token, ``[prompt + tokens, vocabulary]``.
    """
    handles = [
        layer.register_forward_pre_hook(_hide(keep, len(tokens)), with_kwargs=True)
        for layer, keep in zip(layers, kept, strict=True)
        if keep is not None
    ]
    try:
        with torch.inference_mode():
            longer = extended(inputs, tokens, answers or {})
            logits: Tensor = model(**longer, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits


def _hide(keep: Tensor, more: int) -> Any:
    """Make a hook that narrows a layer's attention mask; every token still sees itself."""
    seen = torch.cat((keep, keep.new_ones(more)))

    def narrow(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        size = hidden.shape[1]
        place = torch.arange(size, device=hidden.device)
        given = kwargs.get("attention_mask")
        if given is None:
            allowed = (place[:, None] >= place)[None, None]
        elif given.dtype == torch.bool:
            allowed = given
        else:
            allowed = given > torch.finfo(given.dtype).min / 2
        allowed = allowed & (seen | (place[:, None] == place))
        mask = torch.zeros(allowed.shape, dtype=hidden.dtype, device=hidden.device)
        lowest = torch.finfo(hidden.dtype).min
        return args, {**kwargs, "attention_mask": mask.masked_fill(~allowed, lowest)}

    return narrow


def eager_rows(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """Return each layer's last attention row, averaged over heads, from eager attention.

    Args:
        model: A model that nothing is attached to; its attention implementation is put back.
        inputs: Processor outputs of one prompt.

    Returns:
        ``[prompt]`` float32 per layer.
    """
    configs: list[Any] = [part.config for part in model.modules() if hasattr(part, "config")]
    before = [config._attn_implementation for config in configs]
    model.set_attn_implementation("eager")  # type: ignore[operator]
    try:
        with torch.inference_mode():
            attentions = model(**inputs, use_cache=False, output_attentions=True).attentions
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
    return [weights[0, :, -1].float().mean(0) for weights in attentions]


def extended(
    inputs: dict[str, Any], tokens: Sequence[int], kinds: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Put text tokens after the one prompt of a processor's outputs.

    Args:
        inputs: Outputs for a batch of one prompt.
        tokens: Token ids.
        kinds: What the tokens have in inputs that tell kinds of tokens apart, by name.

    Returns:
        The longer prompt's inputs: what has one entry per token grows, with ones in the attention
        mask and, where nothing else is given, zeros (text) in what tells kinds of tokens apart.
    """
    kinds = {"attention_mask": 1, **(kinds or {})}
    shape = inputs["input_ids"].shape
    tail = torch.tensor([list(tokens)], dtype=torch.long)
    longer = dict(inputs)
    for name, value in inputs.items():
        if not isinstance(value, Tensor) or value.shape != shape:
            continue
        more = tail if name == "input_ids" else torch.full_like(tail, kinds.get(name, 0))
        longer[name] = torch.cat((value, more.to(value.dtype)), 1)
    return longer
