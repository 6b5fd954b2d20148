"""Arguments that ``TwigModel.generate`` and transformers' ``generate`` are both called with.

A case is a function of the prompt, because some arguments depend on its length or its ids. Where
tokens are drawn, the settings leave one token, so that both must draw the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
    TopKLogitsWarper,
    WatermarkingConfig,
)
from transformers.generation import MaxLengthCriteria, NoRepeatNGramLogitsProcessor

NEW = 8
"""Tokens that a call generates unless it says otherwise."""

GREEDY = {"max_new_tokens": NEW, "do_sample": False}
DRAWN = {"max_new_tokens": NEW, "do_sample": True}

DRAFTERS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "ssd": {"length": 3, "threshold": 0.0},
    "tree-ssd": {"children": 3, "expanded": 2, "levels": 3, "nodes": 8},
    "medusa-tree": {"paths": [[0], [1], [0, 0], [0, 1], [0, 0, 0]]},
    "auto": {},
    "prompt-lookup": {"length": 3},
    "ngram": {"length": 3},
}
"""Settings with which an untrained twig drafts at every step."""


class EndsAfter:
    """A user's own criterion: every row ends once the text has so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        reached = input_ids.shape[1] >= self.tokens
        return torch.full((input_ids.shape[0],), reached, dtype=torch.bool)


class Less:
    """A user's own processor: the token before becomes less likely."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.scatter_add(1, input_ids[:, -1:], torch.full((len(scores), 1), -3.0))


def _few(_: int, ids: Tensor) -> list[int]:
    """Tokens that may follow: every third one, from one that depends on the text's length."""
    return list(range(3 + len(ids) % 3, 80, 3))


def _config(**settings: Any) -> dict[str, Any]:
    return {"generation_config": GenerationConfig(**settings)}


Case = Callable[[Mapping[str, Any]], dict[str, Any]]

CASES: dict[str, Case] = {
    "defaults": lambda p: {"do_sample": False},
    "max_length": lambda p: {"max_length": _length(p) + 5, "do_sample": False},
    "min_new_tokens": lambda p: {**GREEDY, "min_new_tokens": 6, "eos_token_id": [2, 5, 9, 33, 70]},
    "min_length": lambda p: {**GREEDY, "min_length": _length(p) + 4, "eos_token_id": [9, 33, 70]},
    "eos_token_id": lambda p: {**GREEDY, "eos_token_id": list(range(3, 60)), "pad_token_id": 0},
    "no end": lambda p: {**GREEDY, "max_new_tokens": 16, "eos_token_id": None},
    "pad_token_id": lambda p: {**GREEDY, "pad_token_id": 7, "eos_token_id": list(range(3, 40))},
    "max_time": lambda p: {**GREEDY, "max_time": 600.0},
    "repetition_penalty": lambda p: {**GREEDY, "repetition_penalty": 1.4},
    "no_repeat_ngram_size": lambda p: {**GREEDY, "no_repeat_ngram_size": 2},
    "encoder_repetition_penalty": lambda p: {**GREEDY, "encoder_repetition_penalty": 1.5},
    "encoder_no_repeat_ngram_size": lambda p: {**GREEDY, "encoder_no_repeat_ngram_size": 2},
    "bad_words_ids": lambda p: {**GREEDY, "bad_words_ids": [[n] for n in range(3, 50)]},
    "sequence_bias": lambda p: {**GREEDY, "sequence_bias": [[[4, 5], 4.0], [[11], 6.0]]},
    "suppress_tokens": lambda p: {**GREEDY, "suppress_tokens": list(range(20, 70))},
    "begin_suppress_tokens": lambda p: {**GREEDY, "begin_suppress_tokens": list(range(3, 70))},
    "forced_eos_token_id": lambda p: {**GREEDY, "forced_eos_token_id": 2},
    "exponential_decay_length_penalty": lambda p: {
        **GREEDY, "exponential_decay_length_penalty": (2, 1.6)
    },
    "renormalize_logits": lambda p: {**GREEDY, "renormalize_logits": True},
    "remove_invalid_values": lambda p: {**GREEDY, "remove_invalid_values": True},
    "logits_processor": lambda p: {**GREEDY, "logits_processor": LogitsProcessorList([Less()])},
    "known processor": lambda p: {
        **GREEDY, "logits_processor": LogitsProcessorList([NoRepeatNGramLogitsProcessor(1)])
    },
    "stopping_criteria": lambda p: {
        **GREEDY, "stopping_criteria": StoppingCriteriaList([EndsAfter(_length(p) + 4)])
    },
    "known criterion": lambda p: {
        **GREEDY, "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(_length(p) + 3)])
    },
    "prefix_allowed_tokens_fn": lambda p: {**GREEDY, "prefix_allowed_tokens_fn": _few},
    "generation_config": lambda p: _config(**GREEDY, repetition_penalty=1.2, eos_token_id=2),
    "watermarking_config": lambda p: {**GREEDY, "watermarking_config": WatermarkingConfig()},
    "guidance_scale": lambda p: {**GREEDY, "guidance_scale": 1.5},
    "scores and logits": lambda p: {
        **GREEDY,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
        "repetition_penalty": 1.2,
    },
    "top_k": lambda p: {**DRAWN, "top_k": 1},
    "top_p": lambda p: {**DRAWN, "top_p": 1e-6},
    "min_p": lambda p: {**DRAWN, "min_p": 1.0, "temperature": 0.7},
    "warper of the user's": lambda p: {
        **DRAWN, "logits_processor": LogitsProcessorList([TopKLogitsWarper(1)])
    },
    "num_return_sequences": lambda p: {**DRAWN, "top_k": 1, "num_return_sequences": 2},
}  # fmt: skip
"""Arguments by what is tried."""

REASONS = {
    "guidance_scale": "transformers' own guidance raises for bases with positions in several "
    "channels, whoever decodes",
    "num_return_sequences": "transformers' own expansion of encoded pictures leaves out features "
    "of several layers, so its answers to one prompt differ where only one token can be drawn",
}
"""Why a case is left out for some families."""

EXCEPTIONS: dict[str, frozenset[str]] = {
    "num_return_sequences": frozenset({"granite4_vision-tiny"}),
    "guidance_scale": frozenset(
        {
            "qwen2_vl-qwen2.5",
            "qwen2_vl-qwen2",
            "qwen2_vl-windows",
            "qwen3_vl-dense",
            "qwen3_vl-moe",
        }
    ),
}
"""Families, as ``adapter-variant``, for which a case is left out, by case."""


def _length(prompt: Mapping[str, Any]) -> int:
    length: int = prompt["input_ids"].shape[1]
    return length


def difference(own: Any, other: Any) -> str | None:
    """Say in what two results of ``generate`` differ; ``None`` if in nothing.

    Scores and logits may differ by rounding.
    """
    if isinstance(own, Tensor):
        same = isinstance(other, Tensor) and torch.equal(own, other)
        return None if same else f"tokens {own[:, -NEW:].tolist()} and {other[:, -NEW:].tolist()}"
    if not torch.equal(own.sequences, other.sequences):
        return "sequences"
    for name in ("scores", "logits"):
        values, others = getattr(own, name), getattr(other, name)
        for step, (value, second) in enumerate(zip(values, others, strict=True)):
            alive = _alive(own.sequences, len(values), step)
            if not torch.allclose(value[alive], second[alive], atol=1e-4):
                return f"{name} of token {step}"
    return None


def _alive(sequences: Tensor, count: int, step: int) -> Tensor:
    """Rows that have not ended before a step; transformers goes on with those that have."""
    before = sequences[:, sequences.shape[1] - count :][:, :step]
    return ~(before == 2).any(1)
