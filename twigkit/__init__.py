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
    "HOOKS_VERSION": "plugins.hookspecs",
    "hookimpl": "plugins.hookspecs",
    "Entry": "plugins.registry",
    "Registry": "plugins.registry",
    "default_registry": "plugins.discovery",
    "ByKind": "specs.run",
    "DrafterSpec": "specs.run",
    "GenerationSpec": "specs.run",
    "HeadSpec": "specs.run",
    "PluginSpec": "specs.run",
    "PrunerSpec": "specs.run",
    "RunSpec": "specs.run",
    "RuntimeSpec": "specs.run",
    "Spec": "specs.base",
    "TwigSpec": "specs.run",
    "Adapter": "interfaces.adapter",
    "Preset": "interfaces.presets",
    "TinyFamily": "interfaces.tiny_models",
    "TinyRow": "interfaces.tiny_models",
    "VisualTokens": "interfaces.presets",
    "LayerStack": "backbone.layer_stack",
    "Prompt": "backbone.prompt",
    "LayerCache": "backbone.kv_cache",
    "Candidates": "speculative.candidates",
    "DraftTree": "speculative.draft_tree",
    "Drafter": "interfaces.drafter",
    "Head": "interfaces.head",
    "PromptLayout": "interfaces.pruner",
    "PruneContext": "interfaces.pruner",
    "Pruner": "interfaces.pruner",
    "Selection": "interfaces.pruner",
    "DraftModel": "interfaces.drafter",
    "Stage": "interfaces.pruner",
    "Twig": "twig.module",
    "TwigModel": "model",
}

if TYPE_CHECKING:
    from twigkit.backbone.kv_cache import LayerCache as LayerCache
    from twigkit.backbone.layer_stack import LayerStack as LayerStack
    from twigkit.backbone.prompt import Prompt as Prompt
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
    from twigkit.interfaces.adapter import Adapter as Adapter
    from twigkit.interfaces.drafter import Drafter as Drafter
    from twigkit.interfaces.drafter import DraftModel as DraftModel
    from twigkit.interfaces.head import Head as Head
    from twigkit.interfaces.presets import Preset as Preset
    from twigkit.interfaces.presets import VisualTokens as VisualTokens
    from twigkit.interfaces.pruner import PromptLayout as PromptLayout
    from twigkit.interfaces.pruner import PruneContext as PruneContext
    from twigkit.interfaces.pruner import Pruner as Pruner
    from twigkit.interfaces.pruner import Selection as Selection
    from twigkit.interfaces.pruner import Stage as Stage
    from twigkit.interfaces.tiny_models import TinyFamily as TinyFamily
    from twigkit.interfaces.tiny_models import TinyRow as TinyRow
    from twigkit.model import TwigModel as TwigModel
    from twigkit.plugins.discovery import default_registry as default_registry
    from twigkit.plugins.hookspecs import HOOKS_VERSION as HOOKS_VERSION
    from twigkit.plugins.hookspecs import hookimpl as hookimpl
    from twigkit.plugins.registry import Entry as Entry
    from twigkit.plugins.registry import Registry as Registry
    from twigkit.specs.base import Spec as Spec
    from twigkit.specs.run import ByKind as ByKind
    from twigkit.specs.run import DrafterSpec as DrafterSpec
    from twigkit.specs.run import GenerationSpec as GenerationSpec
    from twigkit.specs.run import HeadSpec as HeadSpec
    from twigkit.specs.run import PluginSpec as PluginSpec
    from twigkit.specs.run import PrunerSpec as PrunerSpec
    from twigkit.specs.run import RunSpec as RunSpec
    from twigkit.specs.run import RuntimeSpec as RuntimeSpec
    from twigkit.specs.run import TwigSpec as TwigSpec
    from twigkit.speculative.candidates import Candidates as Candidates
    from twigkit.speculative.draft_tree import DraftTree as DraftTree
    from twigkit.twig.module import Twig as Twig

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
