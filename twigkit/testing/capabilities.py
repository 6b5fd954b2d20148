"""What plug-ins can say they are able to do, and what they must be able to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import pytest

from twigkit.interfaces.capabilities import ADAPTER_CAPABILITIES

CAPABILITIES: dict[str, dict[str, str]] = {
    "adapter": ADAPTER_CAPABILITIES,
    "head": {
        "next-token": "Maps each state to logits of the next token, over the base's vocabulary.",
        "several-tokens": "Maps each state to logits of several tokens ahead.",
        "scores": "Scores visual tokens instead of predicting text.",
    },
    "pruner": {
        "batch": "Rows of one batch differ in visual tokens and keep counts.",
        "capturable": "Scores on the device alone and keeps nothing, so that prefill is captured.",
        "final-wipe": "Drops all visual tokens after a wipe layer.",
        "merge": "Replaces the states of kept tokens by something of the dropped ones.",
        "random": "Draws its scores, from the generator that it is handed.",
        "no-budget": "Does not promise to meet a budget exactly.",
        "no-stages": "Drops nothing, whatever the budget.",
        "vision": "Looks at what the vision tower made of the pictures.",
        "look-ahead": "Looks at the attention of layers after the stage, which are run twice.",
    },
    "drafter": {
        "batch": "Rows of one batch draft side by side, and accept different lengths.",
        "no-twig": "Drafts without a twig.",
        "tree": "Proposes trees and not only paths.",
        "sampling": "Draws its drafts where the target draws its tokens.",
    },
    "task": {
        "judge": "A model has to judge the answers for an official score.",
        "submission": "Exports the answers for a server or the authors' own evaluation.",
    },
}
"""Every capability by kind of plug-in, each with what it promises."""

REQUIRED: dict[str, frozenset[str]] = {
    "adapter": frozenset({"batch", "text-only"}),
    "head": frozenset(),
    "pruner": frozenset({"batch"}),
    "drafter": frozenset({"batch"}),
    "task": frozenset(),
}
"""What every plug-in of a kind must be able to do; a test class may ask for more."""


def check_capabilities(
    kind: str,
    name: str,
    declared: Iterable[str],
    *,
    required: Iterable[str] | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Fail if a capability is unknown, or a required one is missing.

    Args:
        kind: Kind of plug-in.
        name: What to call it in the message.
        declared: What it declares.
        required: What it must declare; ``None`` for :data:`REQUIRED`.
        extra: Capabilities of the author's own, each with what it promises.
    """
    known = {**CAPABILITIES[kind], **(extra or {})}
    declared = set(declared)
    for capability in sorted(declared - set(known)):
        close = difflib.get_close_matches(capability, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        pytest.fail(
            f"{name} declares the unknown capability {capability!r}{hint}; known for a {kind}: "
            f"{', '.join(sorted(known))}. Describe one of your own in the class attribute `extra`"
        )
    wanted = REQUIRED[kind] if required is None else frozenset(required)
    missing = sorted(wanted - declared)
    if missing:
        meanings = "; ".join(f"{m!r}: {known.get(m, 'not described')}" for m in missing)
        pytest.fail(
            f"{name} must be able to do what it does not declare ({meanings}). Add it to "
            "`capabilities` and make its checks pass"
        )


def need(
    kind: str, capability: str, declared: Iterable[str], required: Iterable[str] | None = None
) -> None:
    """Skip a check whose capability is not declared; fail if it is a required one."""
    if capability in declared:
        return
    wanted = REQUIRED[kind] if required is None else frozenset(required)
    if capability in wanted:
        pytest.fail(f"the required capability {capability!r} is not declared")
    pytest.skip(f"does not declare {capability!r}: {CAPABILITIES[kind].get(capability, '')}")
