"""Loads base models and reads their configurations."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedConfig

from twigkit.errors import CheckpointError
from twigkit.families.adapted import adapter_base, load_adapter
from twigkit.families.layer_count import check_layer_count
from twigkit.families.resolve import find_adapter
from twigkit.io.files import expanded
from twigkit.io.hub import download_options
from twigkit.twig.hub import find_twig
from twigkit.twig.manifest import refuse_twig

logger = logging.getLogger(__name__)


HUB = ("token", "cache_dir", "local_files_only")
"""Options that say how something is fetched from the Hub."""

MOST_LAYERS = 1000
"""Most layers that a configuration may ask for where there are no weights to count them by."""


def read_config(base: str | Path, revision: str | None = None, **hub: Any) -> dict[str, Any]:
    """Read a base model's configuration without running any of its code.

    Args:
        base: Folder or Hub id.
        revision: Revision on the Hub.
        **hub: As :func:`twigkit.io.hub.download_options` takes it.

    Returns:
        What ``config.json`` holds.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    base = expanded(base)
    if not os.path.isdir(base) and _looks_like_a_path(str(base)):
        raise CheckpointError(
            f"there is no folder {base}; name a folder with config.json and safetensors weights, "
            "or a Hub id"
        )
    _check_files(Path(base))
    try:
        config, _ = PreTrainedConfig.get_config_dict(
            str(base), **download_options(base, revision, **hub)
        )
    except Exception as error:  # what is wrong with a file has as many types as lines read it
        raise unloadable(base, error) from error
    whole = isinstance(config, dict) and isinstance(config.get("model_type"), str)
    if not whole:
        refuse_twig(base)
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
    for part in (config, *config.values()):
        layers = part.get("num_hidden_layers") if isinstance(part, dict) else None
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise CheckpointError(
                f"cannot load the base model {base}: its config.json says {layers:,} layers, more "
                f"than {MOST_LAYERS:,}; name a folder with the config.json that transformers wrote"
            )
    return dict(config)


def _check_files(base: Path) -> None:
    """Refuse a folder with a pipe or a device in it, which transformers would wait for or read."""
    if not os.path.isdir(base):  # False, too, for a name that is too long
        return
    for path in sorted(base.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointError(
                f"cannot load the base model {base}: {path.name} is no regular file; copy the "
                "checkpoint again"
            )


def load_base(base: str | Path, options: dict[str, Any]) -> nn.Module:
    """Load a base model whole, by the class of transformers that its adapter names.

    Args:
        base: Folder or Hub id of a model, or of an adapter, which is loaded into its base.
        options: For ``from_pretrained``, those for the Hub included; ``None`` leaves one out.

    Returns:
        The model.

    Raises:
        CheckpointError: If something is missing, damaged, or does not fit; names it.
        CapabilityError: If no adapter serves the model.
    """
    base = expanded(base)
    revision = options.get("revision")
    base, options, hub = _split(base, options)
    if str(options.get("device_map")) == "meta":
        raise CheckpointError(
            f"cannot load the base model {base} on the device 'meta', which holds no weights; "
            "choose another"
        )
    try:
        config = read_config(base, revision, **hub)
    except CheckpointError:
        inner = adapter_base(base, revision, **hub)  # such a folder has no config.json
        if inner is None or Path(inner) == Path(base):
            raise
        whole = load_base(inner, {**options, **hub, "revision": None, "subfolder": ""})
        return load_adapter(whole, base, revision, **hub)
    check_layer_count(Path(base), config)
    adapter = find_adapter(config)
    loader = getattr(transformers, adapter.auto_class)
    options = {**options, **download_options(base, revision, **hub)}
    options["use_safetensors"] = True  # no pickles
    logger.info("loading %s as %s", base, adapter.auto_class)
    try:
        model, report = loader.from_pretrained(
            base, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except ImportError as error:
        raise unloadable(base, error, "install it, or load the model without it") from error
    except (RuntimeError, AssertionError) as error:  # a device that is not there, or is full
        way = "choose a device that is there and has room, or auto to spread over all"
        raise unloadable(base, error, way) from error
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


def load_base_or_twig(
    source: str | Path | nn.Module, options: dict[str, Any], place: dict[str, Any], *, alone: bool
) -> tuple[nn.Module, str | Path | None]:
    """Load a base, or the base of a twig that was named alone.

    Args:
        source: What was named; a loaded base stays as it is.
        options: For loading; ``None`` leaves one out.
        place: Revision and folder inside of what was named.
        alone: Whether it may be a twig.

    Returns:
        The base, and the twig if one was named.

    Raises:
        CheckpointError: If it is neither, or the base is not where the twig says.
    """
    if not isinstance(source, str | Path):
        return source, None
    options = {name: value for name, value in options.items() if value is not None}
    try:
        return load_base(source, {**options, **place}), None
    except CheckpointError:
        hub = {name: options[name] for name in HUB if name in options}
        found = find_twig(source, **place, **hub) if alone else None
        if found is None:
            raise
    spec = found.spec
    try:
        return load_base(spec.base, {**options, "revision": spec.revision}), source
    except CheckpointError as error:
        raise CheckpointError(
            f"the twig {source} grew on {spec.base}, which cannot be loaded here ({error}); name "
            "the base as well, as from_pretrained(BASE, TWIG) or with --base and --twig"
        ) from error


def _split(
    base: str | Path, options: dict[str, Any]
) -> tuple[str | Path, dict[str, Any], dict[str, Any]]:
    """Return the folder or id, what is given for loading, and what is given for the Hub."""
    hub = {name: options[name] for name in (*HUB, "subfolder") if options.get(name)}
    if os.path.isdir(base):
        base = Path(base) / hub.pop("subfolder", "")
    given = {name: value for name, value in options.items() if value is not None}
    return base, {name: given[name] for name in given if name not in (*HUB, "subfolder")}, hub


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
