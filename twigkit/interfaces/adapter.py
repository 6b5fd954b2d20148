"""What an adapter promises: a family of base models seen as layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from transformers import PreTrainedModel

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.logit_scaling import LogitScaling
from twigkit.backbone.prompt import Prompt
from twigkit.backbone.rotary import Rope
from twigkit.backbone.vision import TowerCall, TowerRows, VisionTower, received_attention
from twigkit.errors import CapabilityError, PluginError
from twigkit.interfaces.presets import Preset, VisualTokens
from twigkit.interfaces.tiny_models import TinyFamily

__all__ = [
    "Adapter",
    "HasTiny",
    "LayerStack",
    "LogitScaling",
    "Prompt",
    "RefusingAdapter",
    "Rope",
    "TowerCall",
    "TowerRows",
    "VisionTower",
    "received_attention",
]


@runtime_checkable
class HasTiny(Protocol):
    """What an adapter adds to be tested with a model of its own family."""

    def tiny(self) -> TinyFamily:
        """Build the family's tiny model."""
        ...


class Adapter:
    """Base class of adapters: exposes one family of base models as a layer stack.

    An adapter declares ``model_types`` and ``capabilities`` and defines :meth:`stack`; the rest has
    defaults. Class methods take a configuration as plain data (``config.to_dict()``, or what
    ``config.json`` holds), so that they work before anything is loaded.

    Attributes:
        model_types: Values of ``config.model_type`` that the adapter serves.
        text_models: Values of ``config.text_config.model_type`` that the adapter was tried with, of
            a family that is built around any language model; empty if there is only one. A model
            around another is no concern of the adapter, and is tried as undeclared families are.
        capabilities: What the family can do, from ``twigkit.interfaces.capabilities``.
        auto_class: The class of transformers that loads the family.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    text_models: ClassVar[tuple[str, ...]] = ()
    capabilities: ClassVar[frozenset[str]] = frozenset()
    auto_class: ClassVar[str] = "AutoModelForImageTextToText"

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Say whether a model is of this family, around a language model that was tried."""
        text = (config.get("text_config") or {}).get("model_type")
        tried = text is None or not cls.text_models or text in cls.text_models
        return tried and config.get("model_type") in cls.model_types

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str | None:
        """Say why a model cannot be served, and what works instead; ``None`` if it can."""
        return None

    @abstractmethod
    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Wrap a loaded model.

        Raises:
            CapabilityError: If this variant of the family cannot be served; says why.
        """
        raise PluginError(
            f"{type(self).__name__} does not define stack(self, model); return a LayerStack as "
            "docs/recipes/adapter.md describes it"
        )

    @classmethod
    def visual_tokens(cls, config: Mapping[str, Any]) -> VisualTokens | None:
        """Say how many visual tokens a usual prompt has; ``None`` if there are none."""
        return None

    @classmethod
    def presets(cls) -> tuple[Preset, ...]:
        """Return the well-known models of the family."""
        return ()

    def variants(self) -> Mapping[str, Callable[[], TinyFamily]]:
        """Return makers of the family's tiny models, by the name of the variant.

        One that differs in ways that matter, such as another text model, has a name of its own;
        most families have one, which :meth:`HasTiny.tiny` makes.
        """
        return {"tiny": self.tiny} if isinstance(self, HasTiny) else {}


class RefusingAdapter(Adapter):
    """Base class of adapters that recognise a family only to say what works instead.

    Such an adapter declares ``model_types`` and defines :meth:`refusal`.
    """

    @classmethod
    @abstractmethod
    def refusal(cls, config: Mapping[str, Any]) -> str:
        """Say why the family cannot be served, and what works instead."""
        raise PluginError(f"{cls.__name__} does not define refusal(cls, config)")

    def stack(self, model: PreTrainedModel) -> LayerStack:
        """Refuse the model.

        Raises:
            CapabilityError: Always, with the refusal.
        """
        raise CapabilityError(self.refusal(model.config.to_dict()))
