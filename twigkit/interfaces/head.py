"""What a twig head promises."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from twigkit.backbone.draft_vocabulary import DraftVocabulary, cut_rows
from twigkit.backbone.few_rows import apply_linear
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.probes import RowProbe
from twigkit.errors import PluginError
from twigkit.specs.run import HeadSpec
from twigkit.twig.cut_vocabulary import CutsVocabulary
from twigkit.twig.module import Twig

__all__ = [
    "CutsVocabulary",
    "DraftVocabulary",
    "Head",
    "HeadSpec",
    "LayerStack",
    "RowProbe",
    "Scorer",
    "Twig",
    "apply_linear",
    "cut_rows",
]


class Head(nn.Module):
    """Base class of twig heads: maps the twig's normed states to something a strategy uses.

    Attributes:
        capabilities: What it can do, such as ``"next-token"`` or ``"scores"``.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    @abstractmethod
    def grow(cls, spec: Any, stack: LayerStack) -> Head:
        """Make the head of a fresh twig.

        Args:
            spec: The head's own spec.
            stack: The base, whose weights the head may copy.
        """
        raise PluginError(
            f"{cls.__name__} does not define the class method grow(cls, spec, stack); "
            "docs/recipes/head.md describes it"
        )

    @abstractmethod
    def forward(self, hidden: Tensor) -> Tensor:
        """Map states ``[batch, tokens, width]`` to the head's output."""
        raise PluginError(
            f"{type(self).__name__} does not define forward(self, hidden); docs/recipes/head.md "
            "describes it"
        )


@runtime_checkable
class Scorer(Protocol):
    """What a head adds that scores visual tokens (capability ``"scores"``)."""

    def scores(self, probe: RowProbe, visual: Tensor) -> Tensor:
        """Score the visual tokens, differentiably.

        Args:
            probe: The probe of the last twig layer, after a run.
            visual: Which tokens are visual, ``[batch, tokens]`` bool.

        Returns:
            One score per probed row and token, ``[batch, rows, tokens]`` float32. Those of the
            visual tokens before a row add up to one; all others are zero.
        """
        ...
