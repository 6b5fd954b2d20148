"""What a drafter promises, and the draft model that it is handed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from twigkit.specs.run import DrafterField, DrafterSpec
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree, Topology
from twigkit.speculative.level_drafting import LevelDrafting
from twigkit.speculative.ngrams import NgramTable, propose_ngrams
from twigkit.speculative.path_drafting import PathShape, TextDrafting, add_paths
from twigkit.speculative.sampling import Sampling, process_logits
from twigkit.speculative.static_trees import RankPath, ordered_paths, static_tree

__all__ = [
    "BeginsAnswers",
    "Candidates",
    "Decides",
    "DraftModel",
    "DraftTree",
    "Drafter",
    "DrafterField",
    "DrafterSpec",
    "LevelDrafting",
    "NgramTable",
    "PathShape",
    "RankPath",
    "Remembers",
    "Sampling",
    "TextDrafting",
    "Topology",
    "add_paths",
    "ordered_paths",
    "process_logits",
    "propose_ngrams",
    "static_tree",
]


class DraftModel(Protocol):
    """The draft model as a drafter sees it: base layers up to the exit layer, then the twig."""

    def expand(self, candidates: Candidates, nodes: range | Tensor) -> Tensor:
        """Pass nodes through the draft model.

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
    def fixed_shapes(self) -> bool:
        """Whether every step must hand over equally many nodes, whatever their values."""
        ...

    @property
    def may_ask(self) -> bool:
        """Whether a drafter may ask the device for a value, such as to stop early."""
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
        ``twigkit.interfaces.process_logits`` makes of the draft's logits with these settings are
        accepted more often.
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
class BeginsAnswers(Protocol):
    """What a drafter adds that prepares for each call of ``generate``."""

    def begin_answer(self) -> None:
        """Prepare for another answer, before ``heads`` is read; ``heads`` may change here."""
        ...


@runtime_checkable
class Decides(Protocol):
    """What a drafter adds that lets one of several drafters make each step.

    Its sizes and heads are those of all of them together. It counts as a drafter of trees: it
    declares ``"tree"``. ``linear`` and ``draft`` are those of the one that it chose last; before
    the first choice ``linear`` is false. Where steps are captured, what was chosen is asked itself.

    Attributes:
        choices: The drafters, always in the same order; a plain attribute. None of them decides.
    """

    choices: Sequence[Drafter]

    def decide(self, gained: Sequence[int], room: int) -> int:
        """Choose the drafter of the next step.

        Args:
            gained: Tokens that each row gained in the last step; empty in the first step, and where
                the last one took longer than it will again, since it was being captured.
            room: Most drafts that are worth proposing on a path.

        Returns:
            Its place among the choices.
        """
        ...


class Drafter(Protocol):
    """Proposes the tokens after the last accepted one.

    Properties may be plain attributes, of the class or set in ``__init__``; the class annotates
    those that are set in ``__init__``.
    """

    def __init__(self, spec: Any) -> None:
        """Take the drafter's own spec."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do, such as ``"batch"`` and ``"tree"``."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the twig heads it needs; empty if it needs no twig."""
        ...

    @property
    def linear(self) -> bool:
        """Whether it proposes paths only."""
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

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int, /) -> DraftTree:
        """Propose the tokens of one step.

        Args:
            draft_model: The draft model.
            candidates: The step's nodes; they hold the root alone.
            room: Most drafts that are worth proposing on a path (tokens still wanted, less one).

        Returns:
            The nodes to verify: ``candidates``, or what ``candidates.cut`` returns.
        """
        ...
