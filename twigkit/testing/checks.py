"""The comparisons of the kit's checks, and the messages that say what is wrong and where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from twigkit.speculative.draft_tree import DraftTree
from twigkit.testing.lab import Lab, Trace

TOLERANCE = 1e-4
"""Largest difference of logits in float32, relative to their largest."""

TIE = 1e-4
"""Two logits closer than this may be chosen in either order."""

HIDDEN = 1e30
"""Logits beyond are those of tokens that a model never says; they are no scale of the others."""


def close(got: Tensor, want: Tensor, what: str, hint: str) -> None:
    """Fail if two tensors differ by more than rounding in float32.

    Args:
        got: What the plug-in led to.
        want: What it must be.
        what: What is compared, for the message.
        hint: Where to look.
    """
    if got.shape != want.shape:
        pytest.fail(f"{what}: shape {list(got.shape)}, expected {list(want.shape)}. {hint}")
    got, want = got.float(), want.float()
    gap = (got - want).abs().masked_fill(got == want, 0)
    seen = want.abs()[want.abs() < HIDDEN]
    limit = TOLERANCE * max(1.0, float(seen.max()) if seen.numel() else 1.0)
    if not bool((gap <= limit).all()):
        worst = torch.unravel_index(gap.nan_to_num(nan=torch.inf).argmax(), gap.shape)
        place = ", ".join(str(int(axis)) for axis in worst)
        pytest.fail(
            f"{what}: differs by {float(gap.max()):.3g} at [{place}], more than the rounding of "
            f"{limit:.1g} that is allowed. {hint}"
        )


def same_tokens(lab: Lab, trace: Trace, want: list[list[int]], what: str, hint: str) -> None:
    """Fail if a run gave other tokens; a difference is excused only at a tie of the target.

    Args:
        lab: Where it ran.
        trace: The run.
        want: What must have come out of each row.
        what: What is compared, for the message.
        hint: Where to look.
    """
    for row, (got, expected) in enumerate(zip(trace.tokens, want, strict=True)):
        if got == expected:
            continue
        pairs = enumerate(zip(got, expected, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(len(got), len(expected)))
        if place < min(len(got), len(expected)):
            seen = trace.seen_by_layer(row, lab.stack.depth)
            top = lab.own_logits(trace.rows[row], expected[:place], seen)[-1].topk(2).values
            if float(top[0] - top[1]) < TIE:
                continue
        pytest.fail(
            f"{what}: row {row} differs from token {place} on: got {got[place : place + 4]}, "
            f"expected {expected[place : place + 4]} (of {len(got)} and {len(expected)}). {hint}"
        )


def audited(trace: Trace) -> None:
    """Fail if the caches did not hold exactly what was accepted after every step."""
    if trace.drafter.problems:
        more = len(trace.drafter.problems) - 1
        pytest.fail(trace.drafter.problems[0] + (f" (and {more} more)" if more else ""))
    if trace.pruner is not None and trace.pruner.problems:
        pytest.fail(trace.pruner.problems[0])


def computed_once(trace: Trace, exit_layer: int) -> None:
    """Fail if a base layer computed a token twice, in the prompt or within a step."""
    for layer, calls in enumerate(trace.prompt_calls):
        if len(calls) != 1:
            pytest.fail(
                f"layer {layer} ran {len(calls)} times over the prompt; expected once: reuse its "
                "states and its keys and values"
            )
    for number, step in enumerate(trace.drafter.steps, 1):
        for layer, calls in enumerate(step.calls):
            most = step.most_passes() if layer < exit_layer else step.table.size
            if sum(calls) > most:
                pytest.fail(
                    f"layer {layer} computed {sum(calls)} tokens in step {number} (in calls of "
                    f"{calls}) where {most} nodes had to pass it once: a pair of token and layer "
                    "was computed twice. Expand a node once, and run a layer once per call"
                )


def expanded_in_order(trace: Trace) -> None:
    """Fail if the draft model was asked for a node twice, or before its ancestors."""
    for number, step in enumerate(trace.drafter.steps, 1):
        passed: list[set[int]] = [set() for _ in step.live]
        for nodes in step.expanded:
            for row, ids in enumerate(nodes.tolist()):
                for node in ids:
                    if node in passed[row]:
                        pytest.fail(
                            f"step {number} expands node {node} of row {row} a second time; its "
                            "layers were computed twice. Keep what expand() returned"
                        )
                    parent = int(step.candidates.parent[row, node])
                    if node and parent not in passed[row]:
                        pytest.fail(
                            f"step {number} expands node {node} of row {row} before its parent "
                            f"{parent}, whose keys it attends to; expand ancestors first"
                        )
                    passed[row].add(node)


def sound_table(table: DraftTree, linear: bool, where: str) -> None:
    """Fail if depths, parents and ancestors of a table do not belong together.

    Args:
        table: What a drafter handed over.
        linear: Whether the drafter says that it proposes paths only.
        where: Which step, for the message.
    """
    size = table.size
    parent, depth = table.parent[:, :size].tolist(), table.depth[:, :size].tolist()
    ancestors = table.ancestors[:, :size, :size].tolist()
    if linear and not table.linear:
        pytest.fail(f"{where}: the drafter declares linear = True but hands over a tree")
    for row in range(len(parent)):
        for node in range(size):
            above = parent[row][node]
            if node and above >= node:
                pytest.fail(
                    f"{where}: node {node} of row {row} has the later node {above} as parent"
                )
            expected = depth[row][above] + 1 if node else 0
            if depth[row][node] != expected:
                pytest.fail(
                    f"{where}: node {node} of row {row} has depth {depth[row][node]}, its parent "
                    f"{above} has {depth[row][above]}; expected {expected}. A position is the "
                    "prefix's length plus the depth, not the number of the node"
                )
            line = [o == node or (node > 0 and ancestors[row][above][o]) for o in range(size)]
            if ancestors[row][node] != line:
                pytest.fail(
                    f"{where}: node {node} of row {row} sees the nodes "
                    f"{_marked(ancestors[row][node])}; expected itself and its ancestors "
                    f"{_marked(line)} (a tree mask, not a causal one)"
                )


def _marked(line: list[bool]) -> list[int]:
    return [place for place, flag in enumerate(line) if flag]


def kept_as_scored(trace: Trace) -> None:
    """Fail if a stage did not keep exactly the visual tokens with the highest scores, in order."""
    assert trace.pruner is not None
    answers = iter(trace.pruner.seen)
    for number, kept in enumerate(trace.prefilled.kept):
        stage = kept.stage
        context_scores = next(answers) if any(stage.keep) else None
        for row in range(len(trace.rows)):
            want = _expected(trace, number, row, context_scores)
            got = trace.kept(row, number)
            if got == want:
                continue
            where = f"the stage after layer {stage.layer}, row {row}"
            if sorted(got) == want:
                pytest.fail(f"{where}: kept positions {got} are not in prompt order")
            missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
            pytest.fail(
                f"{where}: kept {extra} instead of {missing}; expected all text and the "
                f"{stage.keep[row]} visual tokens with the highest scores"
            )


def _expected(trace: Trace, number: int, row: int, answer: Any) -> list[int]:
    """Work out on plain lists what a stage must keep of a row."""
    prompt, stage = trace.prompt, trace.prefilled.kept[number].stage
    places = prompt.valid[row].nonzero()[:, 0]
    visual = dict(
        zip(prompt.index[row, places].tolist(), prompt.visual[row, places].tolist(), strict=True)
    )
    before = sorted(visual) if number == 0 else trace.kept(row, number - 1)
    text = [index for index in before if not visual[index]]
    if answer is None:
        return text
    _, context, selection = answer
    score = {
        index: value
        for index, value, alive in zip(
            context.index[row].tolist(),
            selection.scores[row].tolist(),
            context.valid[row].tolist(),
            strict=True,
        )
        if alive
    }
    ranked = sorted((i for i in before if visual[i]), key=lambda i: (-score[i], i))
    return sorted(text + ranked[: stage.keep[row]])


def cache_holds_kept(trace: Trace) -> None:
    """Fail if the caches after a stage hold other prompt tokens than those that it kept."""
    for segment in trace.prefilled.cache.base:
        stages = [
            number
            for number, kept in enumerate(trace.prefilled.kept)
            if kept.stage.layer <= segment.first
        ]
        for row, length in enumerate(trace.prompt.lengths):
            want = trace.kept(row, stages[-1]) if stages else list(range(length))
            held = segment.index[row, : len(want)].tolist()
            if held != want:
                pytest.fail(
                    f"layers {segment.first}..{segment.last - 1} hold the prompt positions {held} "
                    f"of row {row}, expected {want}: those that were kept, in prompt order"
                )
