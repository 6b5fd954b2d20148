"""Which adapter serves a base model, and how the base is loaded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from twigkit.backbone.layer_stack import LayerStack
from twigkit.errors import CapabilityError, PluginError, PluginWarning
from twigkit.families.generic import GenericAdapter
from twigkit.interfaces.adapter import Adapter
from twigkit.plugins.blame import blamed_on, origin_of
from twigkit.plugins.discovery import default_registry
from twigkit.plugins.registry import Entry

logger = logging.getLogger(__name__)


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
    claims = [entry for entry in default_registry().entries("adapter") if _claims(entry, config)]
    if len(claims) > 1:
        raise CapabilityError(
            f"two adapters claim model type {config.get('model_type')!r}: "
            f"{claims[0].name!r} of {claims[0].origin} and {claims[1].name!r} of "
            f"{claims[1].origin}; uninstall one of them"
        )
    if not claims:
        return GenericAdapter(config)
    chosen = claims[0].cls
    with blamed_on("adapter", chosen):
        reason = chosen.refusal(config)
        adapter: Adapter = chosen()
    if reason:
        raise CapabilityError(reason)
    logger.info("model type %s is served by %s", config.get("model_type"), claims[0].origin)
    return adapter


def make_stack(adapter: Adapter, model: Any) -> LayerStack:
    """Let an adapter wrap a loaded model.

    Raises:
        CapabilityError: If this variant of the family cannot be served; says why.
        PluginError: If the adapter fails, or returns something else than a layer stack.
    """
    with blamed_on("adapter", adapter):
        stack: object = adapter.stack(model)
    if not isinstance(stack, LayerStack):
        raise PluginError(
            f"stack() of the adapter {origin_of('adapter', adapter)} returned a "
            f"{type(stack).__name__}; expected a twigkit.LayerStack around the model"
        )
    return stack


def _claims(entry: Entry, config: Mapping[str, Any]) -> bool:
    """Ask an adapter whether a model is of its family; one that fails claims nothing."""
    try:
        return bool(entry.cls.recognises(config))
    except Exception as error:  # a third party's code may raise anything
        text = " ".join(str(error).split())
        warnings.warn(
            f"the adapter {entry.name!r} of {entry.origin} was passed over: recognises() raised "
            f"{type(error).__name__}: {text}; report it to its authors",
            PluginWarning,
            stacklevel=3,
        )
        return False
