"""Whether pruners and drafters return what their contracts ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral

from torch import Tensor

from twigkit.errors import PluginError
from twigkit.interfaces.drafter import Drafter
from twigkit.interfaces.pruner import PromptLayout, PruneContext, Pruner, Selection, Stage
from twigkit.plugins.blame import blamed_on, origin_of
from twigkit.speculative.draft_tree import DraftTree, NodesError


def checked_stages(pruner: Pruner, layout: PromptLayout) -> list[Stage]:
    """Ask a pruner for its stages.

    Args:
        pruner: The pruner.
        layout: The prompt and the budget.

    Returns:
        The stages, as the pruner plans them.

    Raises:
        PluginError: If they are no plan for these layers and rows; says what is expected.
    """
    stages = pruner.stages(layout)
    problem = _problem_of(stages, len(layout.visual), layout.depth)
    if problem:
        raise PluginError(f"stages() of the pruner {origin_of('pruner', pruner)} {problem}")
    return list(stages)


def _problem_of(stages: object, rows: int, depth: int) -> str | None:
    """Say what is wrong with a plan; ``None`` if nothing is."""
    if not isinstance(stages, Sequence):
        return f"returned {_kind(stages)}; expected a list of Stage, empty if nothing goes"
    before = 0
    for stage in stages:
        if not isinstance(stage, Stage):
            return f"returned a list with {_kind(stage)}; expected a list of Stage"
        if not isinstance(stage.layer, Integral) or not 0 <= stage.layer <= depth:
            return (
                f"returned a stage after layer {stage.layer!r}; expected the number of base layers "
                f"that run before it, from 0 to {depth}"
            )
        if stage.layer < before:
            return (
                f"returned the stage after layer {before} before the one after layer "
                f"{stage.layer}; return them by rising layer"
            )
        keep = stage.keep
        if not isinstance(keep, list | tuple) or len(keep) != rows or not all(map(_counts, keep)):
            return (
                f"returned a stage after layer {stage.layer} that keeps {keep!r}; expected a list "
                f"of the visual tokens that stay, one number of at least 0 for each of {rows} rows"
            )
        if stage.attention not in (None, "twig") and not isinstance(stage.attention, Integral):
            return (
                f"returned a stage after layer {stage.layer} that asks for the attention of "
                f"{stage.attention!r}; expected the number of a base layer, counted from 0, 'twig' "
                "or None"
            )
        if stage.rows not in ("last", "text"):
            return (
                f"returned a stage after layer {stage.layer} that asks for the rows "
                f"{stage.rows!r}; expected 'last' or 'text'"
            )
        before = stage.layer
    return None


def checked_selection(pruner: Pruner, stage: Stage, context: PruneContext) -> Selection:
    """Ask a pruner for its scores at a stage.

    Args:
        pruner: The pruner.
        stage: The stage.
        context: What the core hands it.

    Returns:
        The pruner's answer. Values are not looked at: that would wait for the device.

    Raises:
        PluginError: If it does not fit the tokens that are there; says what is expected.
    """
    selection = pruner.select(stage, context)
    where = f"select() of the pruner {origin_of('pruner', pruner)} after layer {stage.layer}"
    if not isinstance(selection, Selection):
        raise PluginError(f"{where} returned {_kind(selection)}; expected a Selection(scores)")
    scores, hidden = selection.scores, selection.hidden
    rows, tokens = context.index.shape
    if not isinstance(scores, Tensor) or scores.shape != (rows, tokens) or scores.is_complex():
        raise PluginError(
            f"{where} returned scores that are {_kind(scores)}; expected one real number for each "
            f"token that is there, text included: [batch, tokens] = [{rows}, {tokens}]"
        )
    if hidden is not None and (
        not isinstance(hidden, Tensor)
        or (hidden.shape, hidden.dtype) != (context.hidden.shape, context.hidden.dtype)
    ):
        raise PluginError(
            f"{where} returned states that are {_kind(hidden)}; expected those of all tokens that "
            f"are there, like context.hidden: {_kind(context.hidden)}"
        )
    return selection


@contextmanager
def drafting(drafter: Drafter) -> Iterator[None]:
    """Blame a drafter for what goes wrong while it drafts.

    Args:
        drafter: The drafter that is called inside of the block.

    Raises:
        PluginError: Where nodes do not fit the candidates, which whoever asks for an answer has
            no part in, and where :func:`~twigkit.plugins.blame.blamed_on` raises it.
    """
    with blamed_on("drafter", drafter):
        try:
            yield
        except NodesError as error:
            raise PluginError(f"the drafter {origin_of('drafter', drafter)}: {error}") from error


def checked_tree(drafter: Drafter, drafted: object) -> DraftTree:
    """Return the nodes that a drafter hands over, without the room that it did not use.

    Args:
        drafter: The drafter.
        drafted: What its ``draft`` returned.

    Raises:
        PluginError: If that is no draft tree; says what is expected.
    """
    if not isinstance(drafted, DraftTree):
        raise PluginError(
            f"draft() of the drafter {origin_of('drafter', drafter)} returned {_kind(drafted)}; "
            "expected the candidates that it was handed, or what candidates.cut returns"
        )
    return drafted.in_use()


def _counts(keep: object) -> bool:
    """Whether something is a number of tokens."""
    return isinstance(keep, Integral) and int(keep) >= 0


def _kind(thing: object) -> str:
    """Describe what was returned: a tensor's shape and precision, or a type."""
    if isinstance(thing, Tensor):
        return f"a tensor {list(thing.shape)} of {str(thing.dtype).removeprefix('torch.')}"
    return "None" if thing is None else f"a {type(thing).__name__}"


__all__ = ["checked_selection", "checked_stages", "checked_tree", "drafting"]
