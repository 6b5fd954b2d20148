"""Decoding with a twig from transformers' own ``generate``, through its ``custom_generate``.

Two forms, as transformers has them:

- the callable: ``base.generate(**inputs, custom_generate=CustomGenerate(model), budget=0.5)``;
- the directory, which every saved twig is: ``base.generate(**inputs, custom_generate="org/twig",
  trust_remote_code=True, twig="org/twig", budget=0.5)``. transformers runs the folder's
  ``custom_generate/generate.py``, which imports :func:`generate` from here; twigkit never runs it.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from twigkit.errors import InputError
from twigkit.generation.arguments import FIELDS, check_fields
from twigkit.model import TwigModel, TwigOutput

__all__ = ["CustomGenerate", "generate"]

_HELD = "_twigkit_models"
"""Attribute of a base that holds what the directory form has loaded for it; it goes with the base.

A table here would keep the base, which its twigs know, in memory for ever.
"""

_CACHES = ("cache", "past_key_values")
"""What transformers calls the KV cache of a call, from 5.24 on and before."""

_PREPARED = (*_CACHES, "position_ids", "logits_to_keep", "cache_position")
"""What transformers prepares for its own decoding, and twigkit does without."""


class CustomGenerate:
    """A twig's decoding as a callable for transformers' ``custom_generate``.

    transformers prepares a call's processors, criteria and inputs; this decodes with them. It takes
    the arguments ``budget``, ``pruner``, ``drafter``, ``wipe_layer``, ``strict``, ``draft_cache``,
    ``bucketed``, ``generator`` and ``seed`` from the call, as :meth:`TwigModel.generate` does.

    transformers hands no callable the streamer or the tokenizer of a call: to stream, and for
    ``stop_strings``, use the directory form or :meth:`TwigModel.generate`.

    With a loaded base and its :class:`TwigModel`::

        base.generate(**inputs, custom_generate=CustomGenerate(model), budget=0.5)
    """

    def __init__(self, model: TwigModel) -> None:
        """Decode with a model.

        Args:
            model: Base and twig.
        """
        self.model = model
        own = inspect.signature(TwigModel.generate).parameters.values()
        options = [p for p in own if p.kind is p.KEYWORD_ONLY]
        prepared = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for name in ("model", "input_ids")
        ]
        rest = inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)
        self.__signature__ = inspect.Signature([*prepared, *options, rest])  # transformers reads it

    def __call__(
        self, model: nn.Module, input_ids: Tensor, **arguments: Any
    ) -> Tensor | TwigOutput:
        """Decode what transformers prepared.

        Args:
            model: What ``generate`` was called on: the base.
            input_ids: The prompts, one row per answer, ``[batch, tokens]``.
            **arguments: ``generation_config``, ``logits_processor`` and ``stopping_criteria`` as
                transformers prepared them, inputs of the base, with ``mm_encoder_outputs`` in place
                of pixels where the base takes them, and twigkit's own options.

        Returns:
            As :meth:`TwigModel.generate`.

        Raises:
            InputError: If the model is another, or the KV cache is not empty.
            CapabilityError: If a setting asks for what twigkit does not do.
        """
        if model is not self.model.base:
            raise InputError(
                f"the twig decodes for the {type(self.model.base).__name__} that it was loaded "
                f"with, and generate was called on another model ({type(model).__name__}); call it "
                "on TwigModel.base"
            )
        for name in _CACHES:
            cache = arguments.get(name)
            if cache is not None and cache.get_seq_length():
                raise InputError(
                    f"{name} holds {cache.get_seq_length()} tokens; pruning and drafting need the "
                    "whole prompt, so give it without a cache"
                )
        encoded = arguments.get("mm_encoder_outputs")
        for name in _PREPARED:
            if name != "position_ids" or not encoded:
                arguments.pop(name, None)
        if not encoded:
            arguments.pop("mm_encoder_outputs", None)
        if arguments.get("attention_mask") is None:
            # transformers has dropped a mask that hides nothing; none would be read off padding.
            arguments["attention_mask"] = torch.ones_like(input_ids)
        config = _prepared_settings(model, arguments.pop("generation_config"))
        _take_penalty(config, arguments)
        # As an argument, since none in a generation config leaves it to the base.
        arguments["eos_token_id"] = config.eos_token_id
        return self.model.generate(
            input_ids, generation_config=config, use_model_defaults=False, **arguments
        )


def _prepared_settings(model: Any, config: GenerationConfig) -> GenerationConfig:
    """Return what is left to say once processors and criteria have been prepared.

    Raises:
        CapabilityError: If a setting asks for what twigkit does not do.
    """
    own = model.generation_config
    refused = [name for name, treatment in FIELDS.items() if treatment.kind == "refused"]
    given = {name for name in refused if getattr(config, name, None) != getattr(own, name, None)}
    check_fields(config, called=given, own=())
    kept = ("do_sample", "max_length", "eos_token_id", "pad_token_id", "return_dict_in_generate")
    asked = {name: getattr(config, name) for name in (*kept, "output_scores", "output_logits")}
    if config.do_sample:
        asked["top_k"] = 0  # the warpers are among the processors
    return GenerationConfig(**asked)


def _take_penalty(config: GenerationConfig, arguments: dict[str, Any]) -> None:
    """Let a setting say again what transformers' penalty on repetitions does, which comes first.

    It holds where each row's padding ends, so as a processor it would see all rows at once, and
    nothing could be drafted; twigkit's own never sees padding.
    """
    processors, mask = arguments.get("logits_processor") or [], arguments.get("attention_mask")
    places = [n for n, p in enumerate(processors) if type(p) is RepetitionPenaltyLogitsProcessor]
    if places != [0] or mask is None:
        return
    penalty, *others = processors
    begins = penalty.prompt_ignore_length
    ends = (mask != 0).int().argmax(1)
    if isinstance(begins, Tensor) and torch.equal(begins.to(ends), ends):
        config.repetition_penalty = penalty.penalty
        arguments["logits_processor"] = LogitsProcessorList(others)


def generate(
    model: nn.Module,
    inputs: Tensor | None = None,
    *,
    twig: str | Path | None = None,
    revision: str | None = None,
    allow_other_base: bool = False,
    **arguments: Any,
) -> Tensor | TwigOutput:
    """Generate with a twig: what ``custom_generate/generate.py`` in a saved twig leads to.

    Args:
        model: The base, whose ``generate`` was called.
        inputs: The prompts' ids, ``[batch, tokens]``; ``input_ids`` is the same.
        twig: Folder or Hub id of the twig, which is loaded once for each base. transformers tells
            nobody where the code came from, so it is named again here.
        revision: Revision on the Hub, of the code and of the twig.
        allow_other_base: Accept a twig that was grown on other weights of the same shapes.
        **arguments: As :meth:`TwigModel.generate` takes them.

    Returns:
        As :meth:`TwigModel.generate`.

    Raises:
        InputError: If no twig is named, or an argument cannot be used.
        CheckpointError: If the twig is missing, damaged, or for another base.
    """
    if twig is None:
        raise InputError(
            "twig is missing; name the twig's folder or Hub id with twig=..., the same as "
            "custom_generate"
        )
    held = vars(model).setdefault(_HELD, {})
    key = (str(twig), revision, allow_other_base)
    if key not in held:
        held[key] = TwigModel.from_pretrained(
            model, twig, twig_revision=revision, allow_other_base=allow_other_base
        )
    output: Tensor | TwigOutput = held[key].generate(inputs, **arguments)
    return output
