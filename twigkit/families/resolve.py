"""Which adapter serves a base model, and how the base is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twigkit.errors import CapabilityError
from twigkit.families.generic import GenericAdapter
from twigkit.interfaces.adapter import Adapter
from twigkit.plugins.discovery import default_registry


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
    claims = [
        entry for entry in default_registry().entries("adapter") if entry.cls.recognises(config)
    ]
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
