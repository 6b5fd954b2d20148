"""Which adapter serves a base model, and how the base is loaded."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig

from twigkit.errors import CapabilityError, CheckpointError, InputError, PluginWarning
from twigkit.generic import GenericAdapter
from twigkit.hub import download_options
from twigkit.plugins import default_registry
from twigkit.protocols import Adapter
from twigkit.registry import Entry

_TENSORS = ("input_ids", "attention_mask", "pixel_values", "pixel_values_videos")
"""What every processor returns as tensors."""

GENERATE = ("budget", "pruner", "drafter", "wipe_layer", "draft_cache", "seed", "streamer")
"""Arguments of ``generate`` that are twigkit's own, to suggest where another was misspelt."""


def find_adapter(config: Mapping[str, Any]) -> Adapter:
    """Return the adapter that serves a model.

    Args:
        config: The model's configuration as plain data.

    Returns:
        The registered adapter that recognises the model, or else the generic one, which says when
        it wraps the model whether it fits.

    Raises:
        CapabilityError: If the model is refused, or two adapters claim it, or there is nothing to
            try; says what works instead.
    """
    claims = [entry for entry in adapter_entries() if entry.cls.recognises(config)]
    if len(claims) > 1:
        raise CapabilityError(
            f"two adapters claim model type {config.get('model_type')!r}: "
            f"{claims[0].name!r} of {claims[0].origin} and {claims[1].name!r} of "
            f"{claims[1].origin}; uninstall one of them"
        )
    if not claims:
        return GenericAdapter(config)
    reason = claims[0].cls.refusal(config)
    if reason:
        raise CapabilityError(reason)
    adapter: Adapter = claims[0].cls()
    return adapter


def check_prompt(inputs: Mapping[str, Any]) -> Tensor:
    """Refuse what cannot be a processor's output; return its ``input_ids``.

    Raises:
        InputError: If they are missing or empty, or something is a list where a tensor belongs.
    """
    lists = [name for name, value in inputs.items() if name in _TENSORS and _is_list(value)]
    if lists:
        raise InputError(
            f"{lists[0]} is a {type(inputs[lists[0]]).__name__}; ask the processor for tensors, "
            'with return_tensors="pt"'
        )
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.numel() == 0:
        raise InputError("the prompt is empty; pass the processor's outputs, input_ids at least")
    if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise InputError(
            f"input_ids has shape {tuple(ids.shape)} and {ids.dtype}; expected [batch, tokens] of "
            "torch.int64, as the processor returns them"
        )
    return ids


def _is_list(value: object) -> bool:
    return value is not None and not isinstance(value, Tensor)


def check_names(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Refuse arguments that the model would swallow unread, such as a misspelt setting.

    Args:
        model: The base.
        inputs: What is left of a call's arguments for the model.

    Raises:
        InputError: Naming the argument, and the one that was probably meant.
    """
    known = set(inspect.signature(model.forward).parameters)
    if "input_ids" not in known:  # wrapped, so that nothing can be told
        return
    for name in set(inputs) - known - set(_TENSORS):
        settings = [*GENERATE, *GenerationConfig().to_dict(), *known]
        close = difflib.get_close_matches(name, settings, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "leave it out"
        raise InputError(
            f"neither generate nor {type(model).__name__} takes an argument {name!r}; {hint}"
        )


def check_request(
    adapter: Adapter, inputs: Mapping[str, Any], model_type: str, *, prunes: bool
) -> None:
    """Refuse to ask an adapter for what it does not declare.

    Args:
        adapter: The adapter that serves the model.
        inputs: The processor's outputs.
        model_type: The model's type, for the message.
        prunes: Whether visual tokens are to be dropped.

    Raises:
        CapabilityError: Naming the adapter, its distribution, what is missing and what to do.
    """
    asked = {}
    if inputs["input_ids"].shape[0] > 1:
        asked["batch"] = f"{model_type} takes no batches; give one prompt at a time"
    for name, value in inputs.items():
        if name.startswith("pixel_values") and value is not None:
            kind = "video" if "video" in name else "image"
            asked[kind] = f"{model_type} takes no {kind} ({name}); leave it out"
    if prunes:
        asked["pruning"] = (
            f"{model_type} has no visual tokens in its prompt to prune; leave budget out"
        )
    for capability, way in asked.items():
        if capability not in adapter.capabilities:
            raise CapabilityError(f"{_named(adapter)} does not declare {capability!r}: {way}")


def _named(adapter: Adapter) -> str:
    """Name an adapter and where it comes from."""
    for entry in default_registry().entries("adapter"):
        if entry.cls is type(adapter):
            return f"the adapter {entry.name!r} of {entry.origin}"
    return f"the adapter {type(adapter).__name__}"


def adapter_entries() -> list[Entry]:
    """Return the registered adapters; what is no :class:`Adapter` is left out with a warning."""
    entries = []
    for entry in default_registry().entries("adapter"):
        if issubclass(entry.cls, Adapter):
            entries.append(entry)
        else:
            warnings.warn(
                f"the adapter {entry.name!r} of {entry.origin} was left out: {entry.cls.__name__} "
                "does not subclass twigkit.Adapter; ask its authors to update it",
                PluginWarning,
                stacklevel=2,
            )
    return entries


def read_config(base: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Read a base model's configuration without running any of its code.

    Args:
        base: Folder or Hub id.
        revision: Revision on the Hub.

    Returns:
        What ``config.json`` holds.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    if not Path(base).is_dir() and _looks_like_a_path(str(base)):
        raise CheckpointError(
            f"there is no folder {base}; name a folder with config.json and safetensors weights, "
            "or a Hub id"
        )
    try:
        config, _ = PreTrainedConfig.get_config_dict(str(base), **download_options(base, revision))
    except Exception as error:  # what is wrong with a file has as many types as lines read it
        raise unloadable(base, error) from error
    whole = isinstance(config, dict) and isinstance(config.get("model_type"), str)
    if not whole:
        raise CheckpointError(
            f"cannot load the base model {base}: its config.json names no model_type; name a "
            "folder with the config.json that transformers wrote, or a Hub id"
        )
    for name, part in config.items():
        if name.endswith("_config") and part is not None and not isinstance(part, dict):
            raise CheckpointError(
                f"cannot load the base model {base}: {name} in its config.json is {part!r}, no "
                "mapping; name a folder with the config.json that transformers wrote"
            )
    return dict(config)


def load_base(base: str | Path, options: dict[str, Any]) -> nn.Module:
    """Load a base model whole, by the class of transformers that its adapter names.

    Args:
        base: Folder or Hub id.
        options: For ``from_pretrained``.

    Returns:
        The model.

    Raises:
        CheckpointError: If something is missing, damaged, or does not fit; names it.
        CapabilityError: If no adapter serves the model.
    """
    if str(options.get("device_map")) == "meta":
        raise CheckpointError(
            f"cannot load the base model {base} on the device 'meta', which holds no weights; "
            "choose another"
        )
    adapter = find_adapter(read_config(base, options.get("revision")))
    loader = getattr(transformers, adapter.auto_class)
    options = {**options, **download_options(base, options.get("revision"))}
    try:
        model, report = loader.from_pretrained(
            base, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except ImportError as error:
        way = "install it, or load the model without it"
        raise unloadable(base, error, way) from error
    except (RuntimeError, AssertionError) as error:  # a device that is not there, or is full
        raise unloadable(base, error, "choose a device that is there and has room") from error
    except Exception as error:  # what is wrong with a file has as many types as lines read it
        raise unloadable(base, error) from error
    problems = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    problems += [
        f"{name} has shape {list(found)}, expected {list(wanted)}"
        for name, found, wanted in sorted(report["mismatched_keys"])
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"the weights of the base model {base} do not fit its config.json: "
            f"{'; '.join(problems[:3])}{more}; copy the checkpoint again"
        )
    loaded: nn.Module = model
    return loaded


def unloadable(
    base: str | Path,
    error: Exception,
    way: str = "name a folder with config.json and safetensors weights, or a Hub id",
) -> CheckpointError:
    """Make the error of a base that is not there or is damaged.

    Args:
        base: What was asked for.
        error: What transformers said; its first line is told, and the second if that explains it.
        way: What to do.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    if lines[0].endswith(":"):
        lines[0] = " ".join(lines[:2])
    return CheckpointError(f"cannot load the base model {base}: {lines[0].rstrip('.')}; {way}")


def _looks_like_a_path(name: str) -> bool:
    """Whether a name can only mean a folder: Hub ids have one slash at most, and it is inside."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
