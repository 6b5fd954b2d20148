"""What a pruner promises, and what it is handed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from twigkit.backbone.probes import RowProbe
from twigkit.backbone.vision import VisionView
from twigkit.specs.run import PrunerSpec
from twigkit.twig.module import Twig

__all__ = [
    "PromptLayout",
    "PruneContext",
    "Pruner",
    "PrunerSpec",
    "RowProbe",
    "Selection",
    "Stage",
    "Twig",
    "VisionView",
    "WipingPrunerSpec",
]


class WipingPrunerSpec(PrunerSpec):
    """Settings of a pruner that wipes what is left only if it is asked to."""

    wipe_layer: int | float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Base layers, or a fraction of them, after which no visual token is left; the "
        "depth itself, as published, wipes nothing.",
    )


@dataclass(frozen=True)
class PromptLayout:
    """What a pruner may know of a prompt before any layer runs.

    Attributes:
        visual: Visual tokens of each row.
        depth: Base layers, L.
        exit_layer: Where the twig grows, K; ``None`` without a twig.
        budget: Average visual tokens per layer, a count or a fraction.
        wipe_layer: What the user asked for: a count, a fraction, or ``None`` for the pruner's own.
        strict: Whether a budget that a row cannot meet is an error instead of being met as nearly
            as the layers allow.
    """

    visual: list[int]
    depth: int
    exit_layer: int | None
    budget: int | float
    wipe_layer: int | float | None
    strict: bool = False


@dataclass(frozen=True)
class Stage:
    """One place where visual tokens go.

    Attributes:
        layer: Base layers that run before it.
        keep: Visual tokens that stay, per row; all zero wipes them.
        attention: Whose attention the pruner wants to see: ``"twig"`` for the last twig layer, the
            number of a base layer, counted from 0, or ``None``. A base layer that comes after the
            stage is run ahead, up to it, over the tokens that are there, and again over those that
            stay; a pruner that asks for one declares ``"look-ahead"``.
        rows: Which query rows of it: the last prompt token's, or those of all text tokens (summed).
    """

    layer: int
    keep: list[int]
    attention: Literal["twig"] | int | None = None
    rows: Literal["last", "text"] = "last"


@dataclass
class PruneContext:
    """What the core hands a pruner at a stage. All tensors are of the tokens still there.

    Attributes:
        hidden: States after the stage's layer, ``[batch, tokens, width]``.
        visual: Which tokens are visual, ``[batch, tokens]`` bool.
        valid: Which are tokens of the prompt, ``[batch, tokens]`` bool: not padding on the left,
            nor fillers on the right, with which a prompt is lengthened whose prefill is captured.
        text: Which are text, and nothing of a picture, ``[batch, tokens]`` bool.
        index: Original sequence index, ``[batch, tokens]`` long.
        attention: Attention that the tokens receive from the stage's rows, averaged over heads,
            ``[batch, tokens]`` float32; ``None`` if the stage asked for none.
        twig: The twig, if the stage asked for its attention; its heads may score.
        twig_probe: The probe of the last twig layer; ``None`` once tokens have gone, since it holds
            all of them.
        probe: The probe of the base layer that the stage asked for: its rows one by one, its
            queries and keys; ``None`` if tokens have gone since that layer.
        embedded: Input of the first layer, ``[batch, tokens, width]``.
        vision: What the vision tower made of the tokens; for pruners that declare ``"vision"``.
        generator: Source of random numbers.
    """

    hidden: Tensor
    visual: Tensor
    valid: Tensor
    index: Tensor
    text: Tensor
    embedded: Tensor
    attention: Tensor | None = None
    twig: Twig | None = None
    twig_probe: RowProbe | None = None
    probe: RowProbe | None = None
    vision: VisionView | None = None
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Selection:
    """A pruner's answer at a stage.

    Attributes:
        scores: One score per token, ``[batch, tokens]``; the highest of the visual ones stay.
        hidden: Replacement states of all tokens, for pruners that merge; ``None`` leaves them.
    """

    scores: Tensor
    hidden: Tensor | None = None


class Pruner(Protocol):
    """Says at which layers visual tokens go, how many stay, and which.

    Properties may be plain attributes, of the class or set in ``__init__``; the class annotates
    those that are set in ``__init__``.
    """

    def __init__(self, spec: Any) -> None:
        """Take the pruner's own spec."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do, such as ``"batch"`` and ``"final-wipe"``, and what it looks at.

        ``"vision"`` asks for what the vision tower made of the pictures; bases whose adapter does
        not show it are refused. ``"capturable"`` says that ``select`` computes its scores from the
        context's tensors on their device, asks for none of their values, draws nothing, keeps
        nothing, and goes by ``valid`` and not by the last place where it looks at the last prompt
        token: then prefill is captured as a CUDA graph, and ``select`` runs at the capture alone.
        """
        ...

    @property
    def needs_twig(self) -> bool:
        """Whether it works only on a model with a twig."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the twig heads it needs."""
        ...

    def stages(self, layout: PromptLayout, /) -> list[Stage]:
        """Plan the stages of a prompt, by rising layer.

        Raises:
            BudgetError: If the budget cannot be met; says the bound and what would move it.
        """
        ...

    def select(self, stage: Stage, context: PruneContext, /) -> Selection:
        """Score the tokens at a stage that keeps some of them."""
        ...
