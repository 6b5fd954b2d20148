"""twigkit grows twigs on vision-language models, to make them answer faster.

The names below load on first use, so that ``import twigkit`` costs nothing that is not needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "BudgetError": "errors",
    "CapabilityError": "errors",
    "CheckpointError": "errors",
    "FamilyWarning": "errors",
    "InputError": "errors",
    "PluginError": "errors",
    "PluginWarning": "errors",
    "RegistryError": "errors",
    "SpecError": "errors",
    "TrainingError": "errors",
    "TwigkitError": "errors",
    "HOOKS_VERSION": "hookspecs",
    "hookimpl": "hookspecs",
    "Entry": "registry",
    "Registry": "registry",
    "default_registry": "plugins",
    "ByKind": "specs",
    "DrafterSpec": "specs",
    "GenerationSpec": "specs",
    "HeadSpec": "specs",
    "PluginSpec": "specs",
    "PrunerSpec": "specs",
    "RunSpec": "specs",
    "RuntimeSpec": "specs",
    "Spec": "specfile",
    "TwigSpec": "specs",
    "Adapter": "protocols",
    "Preset": "preset",
    "TinyFamily": "protocols",
    "TinyRow": "protocols",
    "VisualTokens": "preset",
    "LayerStack": "stack",
    "Prompt": "front",
    "LayerCache": "cache",
    "Candidates": "candidates",
    "Drafter": "protocols",
    "Head": "protocols",
    "PromptLayout": "protocols",
    "PruneContext": "protocols",
    "Pruner": "protocols",
    "Selection": "protocols",
    "Shallow": "protocols",
    "Stage": "protocols",
    "Twig": "twig",
    "TwigModel": "model",
}

if TYPE_CHECKING:
    from twigkit.cache import LayerCache as LayerCache
    from twigkit.candidates import Candidates as Candidates
    from twigkit.errors import BudgetError as BudgetError
    from twigkit.errors import CapabilityError as CapabilityError
    from twigkit.errors import CheckpointError as CheckpointError
    from twigkit.errors import FamilyWarning as FamilyWarning
    from twigkit.errors import InputError as InputError
    from twigkit.errors import PluginError as PluginError
    from twigkit.errors import PluginWarning as PluginWarning
    from twigkit.errors import RegistryError as RegistryError
    from twigkit.errors import SpecError as SpecError
    from twigkit.errors import TrainingError as TrainingError
    from twigkit.errors import TwigkitError as TwigkitError
    from twigkit.front import Prompt as Prompt
    from twigkit.hookspecs import HOOKS_VERSION as HOOKS_VERSION
    from twigkit.hookspecs import hookimpl as hookimpl
    from twigkit.model import TwigModel as TwigModel
    from twigkit.plugins import default_registry as default_registry
    from twigkit.preset import Preset as Preset
    from twigkit.preset import VisualTokens as VisualTokens
    from twigkit.protocols import Adapter as Adapter
    from twigkit.protocols import Drafter as Drafter
    from twigkit.protocols import Head as Head
    from twigkit.protocols import PromptLayout as PromptLayout
    from twigkit.protocols import PruneContext as PruneContext
    from twigkit.protocols import Pruner as Pruner
    from twigkit.protocols import Selection as Selection
    from twigkit.protocols import Shallow as Shallow
    from twigkit.protocols import Stage as Stage
    from twigkit.protocols import TinyFamily as TinyFamily
    from twigkit.protocols import TinyRow as TinyRow
    from twigkit.registry import Entry as Entry
    from twigkit.registry import Registry as Registry
    from twigkit.specfile import Spec as Spec
    from twigkit.specs import ByKind as ByKind
    from twigkit.specs import DrafterSpec as DrafterSpec
    from twigkit.specs import GenerationSpec as GenerationSpec
    from twigkit.specs import HeadSpec as HeadSpec
    from twigkit.specs import PluginSpec as PluginSpec
    from twigkit.specs import PrunerSpec as PrunerSpec
    from twigkit.specs import RunSpec as RunSpec
    from twigkit.specs import RuntimeSpec as RuntimeSpec
    from twigkit.specs import TwigSpec as TwigSpec
    from twigkit.stack import LayerStack as LayerStack
    from twigkit.twig import Twig as Twig

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    """Import the module behind a re-exported name."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'twigkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"twigkit.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the re-exported names with those already loaded."""
    return sorted({*globals(), *__all__})
