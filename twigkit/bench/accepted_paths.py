"""Statistics of accepted paths: which of the drafted tokens the target takes, step by step.

A run is inspected by a drafter that copies the token tree of every step, so it is not one to time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch_geometric.utils import scatter

from twigkit.interfaces.drafter import DraftModel
from twigkit.plugins.blame import make_plugin
from twigkit.specs.run import GenerationSpec
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.token_tree import TokenTree

if TYPE_CHECKING:
    from twigkit.model import TwigModel


class TreeRecorder:
    """Any drafter, with the token tree of every step of the first row kept.

    Attributes:
        trees: What was handed to verification, step by step, on the CPU.
    """

    def __init__(self, inner: Any, label: str) -> None:
        """Wrap a drafter under its name."""
        self.inner, self.label = inner, label
        self.trees: list[TokenTree] = []

    def __getattr__(self, name: str) -> Any:
        """Be what the wrapped drafter is."""
        return getattr(self.inner, name)

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> DraftTree:
        """Draft, and copy the tree."""
        drafted: DraftTree = self.inner.draft(draft_model, candidates, room)
        self.trees.append(TokenTree.from_draft(drafted, 0).cpu())
        return drafted


@dataclass(frozen=True)
class InspectedStep:
    """One step of an answer.

    Attributes:
        tree: The nodes that were verified.
        accepted: Ids of those that the target accepted, from below the root down.
        next_token: The target's own token after them.
    """

    tree: TokenTree
    accepted: list[int]
    next_token: int


def inspect_answer(
    model: TwigModel, inputs: Mapping[str, Any], drafter: Any, **options: Any
) -> list[InspectedStep]:
    """Answer a prompt and return its steps of drafting.

    Args:
        model: A model, with a twig if the drafter needs one.
        inputs: What the processor returns for one prompt.
        drafter: Name, mapping or spec of the drafter.
        **options: More arguments of ``generate``.
    """
    spec = GenerationSpec.parse({"drafter": drafter}).drafter
    made = make_plugin("drafter", spec)
    recorder: Any = TreeRecorder(made, spec.kind)
    output: Any = model.generate(**inputs, drafter=recorder, **options)
    place = inputs["input_ids"].shape[1] + 1
    steps = []
    for tree, gain in zip(recorder.trees, output.stats.accepted_lengths[0], strict=True):
        text = output[0, place : place + gain].tolist()
        steps.append(InspectedStep(tree, tree.follow(text[:-1]), text[-1]))
        place += gain
    return steps


def accepted_paths(steps: Iterable[InspectedStep]) -> TokenTree:
    """Merge the accepted paths of some steps into one tree of ranks.

    Args:
        steps: Steps of one or several answers.

    Returns:
        The tree: a node is the rank of an accepted draft among its siblings, 0 for the one that the
        draft found most likely, and its ``visits`` say in how many steps it was accepted. The
        root's are the number of steps.
    """
    return TokenTree.from_paths(0, [step.tree.ranks()[step.accepted].tolist() for step in steps])


def acceptance_by_depth(paths: TokenTree) -> list[float]:
    """Return the share of the steps in which a draft of each depth was accepted, from depth 1 on.

    Args:
        paths: What :func:`accepted_paths` returned.

    Examples:
        >>> acceptance_by_depth(TokenTree.from_paths(0, [[0, 0], [1], [], [0]]))
        [0.75, 0.25]
    """
    visits = scatter(paths.visits.double(), paths.depth, reduce="sum")
    shares: list[float] = (visits / visits[0])[1:].tolist()
    return shares


def acceptance_line(paths: TokenTree) -> str:
    """Say in one line how deep the accepted paths of some steps reach, and how likely they seemed.

    Args:
        paths: What :func:`accepted_paths` returned.
    """
    steps = int(paths.visits[0])
    shares = ", ".join(f"{100 * share:.0f}%" for share in acceptance_by_depth(paths)) or "none"
    likeliest = int(paths.visits[(paths.depth == 1) & (paths.token == 0)].sum())
    return (
        f"{steps} step{'s' * (steps != 1)}; drafts accepted at depth 1, 2, ...: {shares}; "
        f"the first was the most likely one in {likeliest}"
    )


__all__ = [
    "InspectedStep",
    "TreeRecorder",
    "acceptance_by_depth",
    "acceptance_line",
    "accepted_paths",
    "inspect_answer",
]
