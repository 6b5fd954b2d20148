"""Ways to answer a prompt that are compared with each other, and one timed answer of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from twigkit.bench.synthetic import SyntheticSelector
from twigkit.generation.prefill import Kept
from twigkit.generation.request import GenerationRequest
from twigkit.generation.strategy import Strategy
from twigkit.model import TwigModel

Inputs = dict[str, Any]
"""A processor's outputs for one prompt."""


@dataclass(frozen=True)
class Method:
    """One way to answer.

    Attributes:
        name: What tables call it.
        target: Name of the method whose tokens it must repeat; empty if it is itself a target.
        engine: Whose ``generate`` runs.
        cache: Cache of Hugging Face's ``generate``.
        budget: Average visual tokens per layer; ``None`` prunes nothing.
        pruner: Chooses the tokens that stay, by name or spec.
        drafter: Proposes tokens, by name or spec.
        options: More arguments of Hugging Face's ``generate``, such as ``prompt_lookup_num_tokens``
            or ``assistant_early_exit``, which need its dynamic cache.
        synthetic: Tokens that a step is made to gain on average, whatever the target says;
            ``None`` for real answers.
    """

    name: str
    target: str = ""
    engine: Literal["twigkit", "hugging-face"] = "twigkit"
    cache: Literal["dynamic", "static"] = "dynamic"
    budget: int | float | None = None
    pruner: Any = "ttp"
    drafter: Any = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)
    synthetic: float | None = None


@dataclass(frozen=True)
class Answer:
    """What one method made of one prompt.

    Attributes:
        tokens: The new tokens.
        prefill_seconds: From the call to the first token.
        decode_seconds: From the first token to the end of the call.
        accepted_lengths: Tokens gained by each verification; empty where nothing is verified.
        kv_bytes: Keys and values of the base in use at the end, from the storages.
        kv_bytes_prompt: The same after the prompt; 0 where it is not measured.
        kv_bytes_allocated: Size of the storages.
        draft_kv_bytes: The twig's own, in use at the end.
        kept: What each stage of the pruner kept.
        step_seconds: What the steps took, by part; empty where nothing measures it.
        logits: Of the last new token, ``[vocabulary]``, if they were asked for.
    """

    tokens: list[int]
    prefill_seconds: float
    decode_seconds: float
    accepted_lengths: list[int]
    kv_bytes: int
    kv_bytes_prompt: int
    kv_bytes_allocated: int
    draft_kv_bytes: int = 0
    kept: tuple[Kept, ...] = ()
    step_seconds: dict[str, float] = field(default_factory=dict)
    logits: Tensor | None = None


def standard_methods(
    budget: int | float, *, pruner: Any = "ttp", drafter: Any = "ssd"
) -> list[Method]:
    """Return the methods that the demo compares.

    Args:
        budget: Average visual tokens per layer of the methods that prune.
        pruner: Chooses the tokens that stay.
        drafter: Proposes tokens.

    Returns:
        Hugging Face's ``generate``, plain decoding, pruning, drafting, and both; each names the
        method whose tokens it must repeat, which prunes as it does.
    """
    pruned = {"budget": budget, "pruner": pruner}
    return [
        Method("Hugging Face generate", engine="hugging-face"),
        Method("twigkit plain", target="Hugging Face generate"),
        Method("TTP", **pruned),
        Method("SSD", target="twigkit plain", drafter=drafter),
        Method("TTP + SSD", target="TTP", drafter=drafter, **pruned),
    ]


def answer(
    model: TwigModel,
    inputs: Inputs,
    method: Method,
    *,
    max_new_tokens: int,
    keep_logits: bool = False,
) -> Answer:
    """Answer one prompt greedily, on the clock.

    Args:
        model: Base and twig.
        inputs: The processor's outputs for one prompt.
        method: How.
        max_new_tokens: Most tokens to generate.
        keep_logits: Whether the last token's logits are kept.

    Returns:
        The tokens and what they took.
    """
    if method.engine == "hugging-face":
        return _hugging_face(model, inputs, method, max_new_tokens, keep_logits)
    output: Any = respond(
        model,
        inputs,
        method,
        max_new_tokens=max_new_tokens,
        generator=torch.Generator().manual_seed(0),  # every method's pruner draws the same
        output_logits=keep_logits,
    )
    stats = output.stats
    return Answer(
        tokens=output.sequences[0, inputs["input_ids"].shape[1] :].tolist(),
        prefill_seconds=stats.prefill_seconds,
        decode_seconds=stats.decode_seconds,
        accepted_lengths=stats.accepted_lengths[0],
        kv_bytes=stats.kv_bytes,
        kv_bytes_prompt=stats.kv_bytes_prompt,
        kv_bytes_allocated=stats.kv_bytes_allocated,
        draft_kv_bytes=stats.draft_kv_bytes,
        kept=tuple(output.kept),
        step_seconds=stats.step_seconds,
        logits=output.logits[-1][0] if keep_logits else None,
    )


def respond(
    model: TwigModel, inputs: Inputs, method: Method, *, generator: Any = None, **options: Any
) -> Any:
    """Let twigkit answer prompts by a method.

    Args:
        model: Base and twig.
        inputs: The processor's outputs.
        method: How.
        generator: Random numbers for the pruner.
        **options: More arguments of ``generate``.

    Returns:
        What ``generate`` returns as a dictionary.
    """
    request = GenerationRequest.resolve(
        model,
        None,
        {**inputs, **options, "return_dict_in_generate": True},
        Strategy(budget=method.budget, pruner=method.pruner, drafter=method.drafter),
        generator=generator,
    )
    if method.synthetic is not None:
        request = replace(request, selector=SyntheticSelector(method.synthetic))
    return model.respond(request)


class _Clock:
    """A streamer that notes when the first token came."""

    def __init__(self) -> None:
        self.calls = 0
        self.first = 0.0

    def put(self, value: Tensor) -> None:
        """Take the prompt, then token after token."""
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter()

    def end(self) -> None:
        """Learn that generation is over."""


@torch.inference_mode()
def _hugging_face(
    model: TwigModel, inputs: Inputs, method: Method, max_new_tokens: int, keep_logits: bool
) -> Answer:
    """Let the base's own ``generate`` answer."""
    base: Any = model.base
    clock = _Clock()
    started = time.perf_counter()
    output = base.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        streamer=clock,
        return_dict_in_generate=True,
        output_logits=keep_logits,
        # Drafts of its own take no cache by name; the dynamic one is what they get.
        **(method.options or {"cache_implementation": method.cache}),
    )
    ended = time.perf_counter()
    cache = output.past_key_values
    used = allocated = 0
    for layer in cache.layers:
        for storage in (layer.keys, layer.values):
            allocated += storage.untyped_storage().nbytes()
            filled = min(int(cache.get_seq_length()), storage.shape[2])
            used += storage[:, :, :filled].numel() * storage.element_size()
    return Answer(
        tokens=output.sequences[0, inputs["input_ids"].shape[1] :].tolist(),
        prefill_seconds=clock.first - started,
        decode_seconds=ended - clock.first,
        accepted_lengths=[],
        kv_bytes=used,
        kv_bytes_prompt=0,
        kv_bytes_allocated=allocated,
        logits=output.logits[-1][0] if keep_logits else None,
    )
