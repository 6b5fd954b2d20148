"""Bases with adapters of peft: models that it wraps, and folders that hold an adapter alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils.peft_utils import find_adapter_config_file

from twigkit.errors import CapabilityError, CheckpointError
from twigkit.io.hub import download_options

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


def inside_adapter(model: Any) -> Any:
    """Return the model that a model of peft wraps; any other model as it is.

    The adapters stay where peft put them, in the layers, and stay switchable through peft.

    Args:
        model: What the user holds.

    Raises:
        CapabilityError: If an adapter acts anywhere else than in single modules, and so would be
            lost.
    """
    if not (hasattr(model, "peft_config") and hasattr(model, "get_base_model")):
        return model
    for name, config in model.peft_config.items():
        kind = getattr(getattr(config, "peft_type", None), "value", type(config).__name__)
        prompts = getattr(config, "is_prompt_learning", False)
        if prompts or getattr(config, "is_adaption_prompt", False):
            raise CapabilityError(
                f"the adapter {name!r} is of the kind {kind}, which adds tokens of its own to the "
                "prompt outside the base model; use an adapter of the layers' weights, such as LoRA"
            )
        if getattr(config, "alora_invocation_tokens", None):
            raise CapabilityError(
                f"the adapter {name!r} is active only after certain tokens (aLoRA), which peft's "
                "own generate looks for; use it there, or merge an ordinary LoRA"
            )
    return model.get_base_model()


def adapter_base(folder: str | Path, revision: str | None = None, **hub: Any) -> str | None:
    """Return the base model that an adapter was trained on.

    Args:
        folder: Folder or Hub id.
        revision: Revision on the Hub.
        **hub: As :func:`twigkit.io.hub.download_options` takes it.

    Returns:
        Folder or Hub id of the base; ``None`` if there is a model, or no adapter.

    Raises:
        CheckpointError: If the adapter's configuration is damaged or names no base.
    """
    path = Path(folder)
    if os.path.isdir(path):  # pathlib raises for names that are too long
        if (path / "config.json").exists() or not (path / _CONFIG).exists():
            return None
        file = path / _CONFIG
        if not (path / _WEIGHTS).is_file():
            raise CheckpointError(
                f"the adapter in {folder} has no {_WEIGHTS}; save it again with peft, which writes "
                "safetensors (other formats are not read)"
            )
    else:
        try:
            found = find_adapter_config_file(str(folder), **_adapter_options(folder, revision, hub))
        except (OSError, ValueError):
            found = None  # why there is no model either, its own loading says better
        if found is None:
            return None
        file = Path(found)
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}); save the adapter again"
        ) from error
    if not isinstance(base, str) or not base:
        raise CheckpointError(
            f"{file} names {base!r} as base_model_name_or_path; write the folder or Hub id of the "
            "base there, or load the base and the adapter yourself and give TwigModel the model"
        )
    return base


def _adapter_options(
    folder: str | Path, revision: str | None, hub: dict[str, Any]
) -> dict[str, Any]:
    """Return how an adapter is to be fetched; it never names any code."""
    options = download_options(folder, revision, **hub)
    return {name: value for name, value in options.items() if name != "trust_remote_code"}


def load_adapter(
    model: nn.Module, folder: str | Path, revision: str | None = None, **hub: Any
) -> nn.Module:
    """Load an adapter into a base model.

    Args:
        model: The base, loaded.
        folder: Folder or Hub id of the adapter.
        revision: Its revision on the Hub.
        **hub: As :func:`twigkit.io.hub.download_options` takes it.

    Returns:
        The model, the adapter active.

    Raises:
        CheckpointError: If peft is missing, or the adapter does not fit.
    """
    holder: Any = model
    try:
        report = holder.load_adapter(
            str(folder),
            adapter_kwargs=_adapter_options(folder, revision, hub),
            use_safetensors=True,
        )
    except ImportError as error:
        raise CheckpointError(
            f"{folder} holds an adapter, and loading it needs peft: pip install peft"
        ) from error
    except Exception as error:  # what is wrong with a file has as many types as lines read it
        line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"the adapter {folder} cannot be loaded: {line}; save it again with peft, and load the "
            "base that it was trained on"
        ) from error
    problems = [f"{name} is missing" for name in sorted(report.missing_keys)]
    problems += [f"{name} is unknown" for name in sorted(report.unexpected_keys)]
    if problems:
        raise CheckpointError(
            f"the adapter {folder} does not fit its base: {'; '.join(problems[:3])}; load the base "
            "that it was trained on"
        )
    return model.eval()


__all__ = ["adapter_base", "inside_adapter", "load_adapter"]
