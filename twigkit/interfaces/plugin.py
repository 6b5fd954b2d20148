"""What plug-ins of every kind need: the hook's mark, ``register``, specs and errors."""

from __future__ import annotations

from twigkit.errors import (
    BudgetError,
    CapabilityError,
    CheckpointError,
    FamilyWarning,
    InputError,
    PluginError,
    PluginWarning,
    RegistryError,
    SpecError,
    TrainingError,
    TwigkitError,
)
from twigkit.plugins.discovery import default_registry
from twigkit.plugins.hookspecs import HOOKS_VERSION, Register, hookimpl
from twigkit.plugins.registry import Entry, Registry
from twigkit.specs.base import Spec, problem
from twigkit.specs.run import ByKind, PluginSpec

__all__ = [
    "HOOKS_VERSION",
    "BudgetError",
    "ByKind",
    "CapabilityError",
    "CheckpointError",
    "Entry",
    "FamilyWarning",
    "InputError",
    "PluginError",
    "PluginSpec",
    "PluginWarning",
    "Register",
    "Registry",
    "RegistryError",
    "Spec",
    "SpecError",
    "TrainingError",
    "TwigkitError",
    "default_registry",
    "hookimpl",
    "problem",
]
