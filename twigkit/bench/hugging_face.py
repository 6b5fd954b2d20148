"""The base's own ``generate`` by every way that transformers offers, on the clock."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import torch

from twigkit.bench.latency import ArrivalClock
from twigkit.bench.methods import EARLY_EXIT, Answer, Inputs, Method
from twigkit.errors import CapabilityError, first_line
from twigkit.model import TwigModel


@torch.inference_mode()
def hugging_face_answer(
    model: TwigModel, inputs: Inputs, method: Method, max_new_tokens: int, keep_logits: bool
) -> Answer:
    """Let the base's own ``generate`` answer.

    Args:
        model: The base; a twig on it is not used.
        inputs: The processor's outputs.
        method: Cache and way.
        max_new_tokens: Most tokens to generate.
        keep_logits: Whether the last token's logits are kept.

    Raises:
        CapabilityError: If transformers cannot do this with this base.
    """
    base: Any = model.base
    rows, width = inputs["input_ids"].shape
    options = _options(base, method)
    clock = ArrivalClock(rows)
    output = base.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        streamer=clock,
        return_dict_in_generate=True,
        output_logits=keep_logits,
        **options,
    )
    ended = time.perf_counter() - clock.started
    answers = [
        answer_of(row, base.generation_config) for row in output.sequences[:, width:].tolist()
    ]
    timelines = [clock.timeline.cut(len(answer)) for answer in answers]
    first = timelines[0].first or 0.0
    used, allocated = cache_bytes(getattr(output, "cache", None) or output.past_key_values)
    return Answer(
        rows=answers,
        prefill_seconds=first,
        decode_seconds=ended - first,
        accepted_lengths=list(timelines[0].counts) if method.drafts else [],
        kv_bytes=used,
        kv_bytes_prompt=0,
        kv_bytes_allocated=allocated,
        timelines=timelines,
        logits=output.logits[-1] if keep_logits else None,
    )


def _options(base: Any, method: Method) -> dict[str, Any]:
    """Return the arguments of ``generate`` that a method stands for."""
    if EARLY_EXIT in method.options:
        check_early_exit(base)
    if method.options:  # drafts of its own take no cache by name; they get the dynamic one
        return dict(method.options)
    if method.assistant == "":
        raise CapabilityError("no assistant model was named; name one with --assistant")
    if method.assistant:
        return {"assistant_model": load_assistant(method.assistant, base.device, base.dtype)}
    options: dict[str, Any] = {"cache_implementation": method.cache}
    if method.compiled:
        from transformers import CompileConfig

        compiling = CompileConfig(mode="default")
        compiling._compile_all_devices = True  # transformers' own switch for CPUs
        options["compile_config"] = compiling
    elif method.cache == "static":
        options["disable_compile"] = True  # on a GPU transformers compiles unasked
    return options


def check_early_exit(base: Any) -> None:
    """Refuse early exit where transformers would run all layers to draft.

    It shortens the number of layers in the configuration of ``base_model_prefix``, which the layers
    of a model with several configurations do not read.

    Args:
        base: The base.

    Raises:
        CapabilityError: If that is so.
    """
    inner = getattr(base, base.base_model_prefix, base)
    if inner.config.get_text_config() is not inner.config:
        raise CapabilityError(
            "transformers' early exit sets num_hidden_layers in the outer configuration, which "
            f"the layers of a {type(base).__name__} do not read; all would run to draft"
        )


@lru_cache(maxsize=1)
def load_assistant(path: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Load an assistant model for transformers' assisted decoding.

    Args:
        path: Folder or Hub id of a causal language model with the base's tokenizer.
        device: Where it goes.
        dtype: Its precision.

    Raises:
        CapabilityError: If it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    try:
        found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True)
    except Exception as error:  # a path, a file, a class: as many types as lines read it
        raise CapabilityError(f"cannot load the assistant {path}: {first_line(error)}") from error
    return found.to(device).eval()


def answer_of(row: list[int], settings: Any) -> list[int]:
    """Return a row up to its end token, without the padding after it.

    Args:
        row: New tokens of one prompt.
        settings: The base's generation config.
    """
    ends = settings.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    for place, token in enumerate(row):
        if token in ends:
            return row[: place + 1]
    return row


def cache_bytes(cache: Any) -> tuple[int, int]:
    """Return the bytes of keys and values in use, and those of the storages.

    Args:
        cache: What ``generate`` filled.
    """
    used = allocated = 0
    for layer in cache.layers:
        for storage in (layer.keys, layer.values):
            allocated += storage.untyped_storage().nbytes()
            filled = min(int(cache.get_seq_length()), storage.shape[2])
            used += storage[:, :, :filled].numel() * storage.element_size()
    return used, allocated


__all__ = ["answer_of", "cache_bytes", "check_early_exit", "hugging_face_answer", "load_assistant"]
