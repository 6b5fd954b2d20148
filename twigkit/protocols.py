"""What a plug-in promises, and what the core hands it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from twigkit.attention import RowProbe
from twigkit.candidates import Candidates
from twigkit.preset import Preset, VisualTokens
from twigkit.sampling import Sampling
from twigkit.specs import HeadSpec
from twigkit.stack import LayerStack


@dataclass(frozen=True)
class TinyRow:
    """One prompt for a tiny model, as the conformance kit asks for it.

    Attributes:
        media: What stands in it, in order: ``"image"`` and ``"video"``; empty for text alone.
        words: Text tokens in front of, between and behind the media, at least one each.
        seed: Of its words, pixels and sizes, so that a row is the same alone and in a batch.
    """

    media: tuple[str, ...] = ()
    words: int = 4
    seed: int = 0


@dataclass(frozen=True)
class TinyFamily:
    """A model of a family in the smallest size that still does everything, for tests.

    Attributes:
        model: The model, built from its configuration: at least 6 layers, grouped-query attention
            where the family has it, a vocabulary of at least 64. The kit draws its weights.
        inputs: Makes what the family's processor would return for some rows, padded on the left:
            ``input_ids``, ``attention_mask``, pixels.
    """

    model: nn.Module
    inputs: Callable[[Sequence[TinyRow]], dict[str, Any]]


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
        capabilities: What the family can do, from ``twigkit.capabilities``.
        auto_class: The class of transformers that loads the family.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    capabilities: ClassVar[frozenset[str]] = frozenset()
    auto_class: ClassVar[str] = "AutoModelForImageTextToText"

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Say whether a model is of this family."""
        return config.get("model_type") in cls.model_types

    @classmethod
    def refusal(cls, config: Mapping[str, Any]) -> str | None:
        """Say why a model cannot be served, and what works instead; ``None`` if it can."""
        return None

    def stack(self, model: nn.Module) -> LayerStack:
        """Wrap a loaded model.

        Raises:
            CapabilityError: If this variant of the family cannot be served; says why.
        """
        raise TypeError(f"{type(self).__name__} does not say what its layers are; define 'stack'")

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


class Head(nn.Module):
    """Base class of twig heads: maps the twig's normed states to something a strategy uses."""

    capabilities: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def grow(cls, spec: Any, stack: LayerStack) -> Head:
        """Make the head of a fresh twig.

        Args:
            spec: The head's own spec.
            stack: The base, whose weights the head may copy.
        """
        raise TypeError(f"{cls.__name__} does not say how it grows; define the class method 'grow'")

    def forward(self, hidden: Tensor) -> Tensor:
        """Map states ``[batch, tokens, width]`` to the head's output."""
        raise TypeError(f"{type(self).__name__} does not define 'forward'")


@runtime_checkable
class Scorer(Protocol):
    """What a head adds that scores visual tokens (capability ``"scores"``)."""

    def scores(self, probe: RowProbe, visual: Tensor) -> Tensor:
        """Score the visual tokens, differentiably.

        Args:
            probe: The probe of the last twig layer, behind a run.
            visual: Which tokens are visual, ``[batch, tokens]`` bool.

        Returns:
            One score per probed row and token, ``[batch, rows, tokens]`` float32. Those of the
            visual tokens in front of a row add up to one; all others are zero.
        """
        ...


HeadSpecs = dict[str, HeadSpec]


@dataclass(frozen=True)
class PromptLayout:
    """What a pruner may know of a prompt before any layer runs.

    Attributes:
        visual: Visual tokens of each row.
        depth: Base layers, L.
        exit_layer: Where the twig grows, K; ``None`` without a twig.
        budget: Average visual tokens per layer, a count or a fraction.
        wipe_layer: What the user asked for: a count, a fraction, or ``None`` for the pruner's own.
    """

    visual: list[int]
    depth: int
    exit_layer: int | None
    budget: int | float
    wipe_layer: int | float | None


@dataclass(frozen=True)
class Stage:
    """One place where visual tokens go.

    Attributes:
        layer: Base layers that run before it.
        keep: Visual tokens that stay, per row; all zero wipes them.
        attention: Whose attention the pruner wants to see: ``"twig"`` for the last twig layer, the
            number of a base layer that runs before the stage, or ``None``.
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
        hidden: States behind the stage's layer, ``[batch, tokens, width]``.
        visual: Which tokens are visual, ``[batch, tokens]`` bool.
        valid: Which are not padding, ``[batch, tokens]`` bool.
        index: Original sequence index, ``[batch, tokens]`` long.
        attention: Attention that the tokens receive from the stage's rows, averaged over heads,
            ``[batch, tokens]`` float32; ``None`` if the stage asked for none.
        twig: The twig, if the stage asked for its attention; its heads may score.
        twig_probe: The probe of the last twig layer; ``None`` once tokens have gone, since it holds
            all of them.
        generator: Source of random numbers.
    """

    hidden: Tensor
    visual: Tensor
    valid: Tensor
    index: Tensor
    attention: Tensor | None = None
    twig: Any = None
    twig_probe: Any = None
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

    Attributes:
        capabilities: What it can do.
        needs_twig: Whether it works only on a model with a twig.
        heads: Names of the twig heads it needs.
    """

    capabilities: ClassVar[frozenset[str]]
    needs_twig: ClassVar[bool]
    heads: ClassVar[tuple[str, ...]]

    def __init__(self, spec: Any) -> None:
        """Take the pruner's own spec."""
        ...

    def stages(self, layout: PromptLayout) -> list[Stage]:
        """Plan the stages of a prompt, by rising layer.

        Raises:
            BudgetError: If the budget cannot be met; says the bound and what would move it.
        """
        ...

    def select(self, stage: Stage, context: PruneContext) -> Selection:
        """Score the tokens at a stage that keeps some of them."""
        ...


class Shallow(Protocol):
    """The shallow model as a drafter sees it: base layers up to the exit layer, then the twig."""

    def expand(self, candidates: Candidates, nodes: range | Tensor) -> Tensor:
        """Pass nodes through the shallow model.

        Args:
            candidates: The step's nodes. The root must be passed first; a node's ancestors before
                it.
            nodes: Ids of nodes not passed yet: a range, or ``[batch, nodes]``.

        Returns:
            The twig's normed states, ``[batch, nodes, width]``.
        """
        ...

    def logits(self, hidden: Tensor, head: str = "lm") -> Tensor:
        """Apply a head of the twig, ``[batch, nodes, width]`` to its output."""
        ...

    @property
    def eager(self) -> bool:
        """Whether asking the device for a value is cheap, so that a drafter may stop early."""
        ...

    @property
    def gained(self) -> list[int]:
        """Tokens that each row of the last step gained, on the host; empty in the first step."""
        ...

    @property
    def texts(self) -> list[list[int]]:
        """Prompt without padding and answer so far of each row, on the host, the root last.

        -1 stands for a visual token. A row's list is the same object in every step, and grows. Rows
        that have stopped leave the batch, so that row i of one step need not be row i of the next.
        """
        ...

    @property
    def sampling(self) -> Sampling | None:
        """How the target's tokens are drawn, without penalties; None if the best ones are taken.

        Drafts may be chosen all the same. Those that ``candidates.sample`` draws from what
        ``twigkit.sampling.process`` makes of the draft's logits with these settings are accepted
        more often.
        """
        ...


@runtime_checkable
class Remembers(Protocol):
    """What a drafter adds that learns from one call of ``generate`` for the next.

    Attributes:
        memory: Kept by the model for all drafters of the same spec, until the twig changes.
    """

    memory: dict[str, Any]


@runtime_checkable
class Decides(Protocol):
    """What a drafter adds that chooses anew before each step; ``linear`` then says what it chose.

    It counts as a drafter of trees: it declares ``"tree"``, and before the first choice ``linear``
    is false.
    """

    def decide(self, gained: Sequence[int], room: int) -> None:
        """Choose how to draft the next step.

        Args:
            gained: Tokens that each row gained in the last step; empty in the first step.
            room: Most drafts that are worth proposing on a path.
        """
        ...


class Drafter(Protocol):
    """Proposes the tokens below the last accepted one.

    Attributes:
        capabilities: What it can do.
        heads: Names of the twig heads it needs; empty if it needs no twig.
        linear: Whether it proposes paths only.
    """

    capabilities: ClassVar[frozenset[str]]
    heads: tuple[str, ...]
    linear: bool

    def __init__(self, spec: Any) -> None:
        """Take the drafter's own spec."""
        ...

    @property
    def capacity(self) -> int:
        """Most nodes that a step creates, root included."""
        ...

    @property
    def size(self) -> int:
        """Most nodes that a step hands to verification, root included."""
        ...

    @property
    def height(self) -> int:
        """Most drafts on one path: the most a step can accept."""
        ...

    def draft(
        self, shallow: Shallow, candidates: Candidates, room: int
    ) -> Candidates | tuple[Candidates, Tensor]:
        """Propose the tokens of one step.

        Args:
            shallow: The shallow model.
            candidates: A table that holds the root alone.
            room: Most drafts that are worth proposing on a path (tokens still wanted, less one).

        Returns:
            The table to verify, and, if it was cut, the ids that its nodes had in ``candidates``.
        """
        ...


__all__ = [
    "Adapter",
    "Decides",
    "Drafter",
    "HasTiny",
    "Head",
    "PromptLayout",
    "PruneContext",
    "Pruner",
    "Remembers",
    "Scorer",
    "Selection",
    "Shallow",
    "Stage",
    "TinyFamily",
    "TinyRow",
    "field",
]
