"""Decoding in a running batch: the loop of :class:`Generation` over steps that can be captured."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from twigkit.backbone.layer_cache import LayerCache
from twigkit.generation.row_state import Entry
from twigkit.generation.sequences import GrowingSequence
from twigkit.generation.slot_batch import SlotBatch
from twigkit.generation.stats import GenerationStats


def join_all(
    batch: SlotBatch,
    cache: LayerCache,
    entries: list[Entry],
    sequences: list[GrowingSequence],
) -> dict[int, int]:
    """Let the rows of a prefilled call join a batch, but for those that have stopped.

    Args:
        batch: A batch without rows.
        cache: What prefill filled; not needed afterwards.
        entries: The rows, after their first token.
        sequences: The sequences.

    Returns:
        The number of the sequence of every row.
    """
    going = {n: entries[n] for n, sequence in enumerate(sequences) if not sequence.done}
    joined = batch.join_all(cache, going) if going else {}
    return {row: number for number, row in joined.items()}


def decode(
    batch: SlotBatch,
    rows: dict[int, int],
    sequences: list[GrowingSequence],
    stats: GenerationStats,
) -> None:
    """Step until every sequence has stopped.

    The device ends a row at its last token and at an end token; what only the host can see, such as
    a stop string, ends it here, and tokens after that are dropped.

    Args:
        batch: The batch.
        rows: The number of the sequence of every row; empty afterwards.
        sequences: Where the tokens go.
        stats: Takes note of what the steps did.
    """
    before = batch.steps
    while rows:
        for row, gain in batch.step().items():
            sequence = sequences[rows[row]]
            count = sequence.push(gain.tokens)
            stats.accepted_lengths[rows[row]].append(count)
            stats.drafted_tokens += gain.drafted
            # A step that ends the sequence may emit no token of the target's own.
            stats.accepted_tokens += min(gain.accepted, count)
            if sequence.done or not gain.goes_on:
                batch.leave(row)
                del rows[row]
    stats.steps += batch.steps - before


def entries_of(
    root: Tensor,
    rope: Tensor,
    index: Tensor,
    noise: Tensor,
    seen: Tensor | None,
    sequences: list[GrowingSequence],
    ends: frozenset[int],
) -> list[Entry]:
    """Make the entries of a batch whose first tokens were selected.

    Args:
        root: The first tokens, ``[batch]``.
        rope: Their rotary positions, ``[batch]``.
        index: Their sequence indices, ``[batch]``.
        noise: States of the rows' random numbers, ``[batch]``.
        seen: Tokens that the rows hold, ``[batch, vocabulary + 1]``, if a selection asks.
        sequences: The sequences.
        ends: Tokens that end them.
    """
    return [
        Entry(
            root=root[row],
            rope=rope[row],
            index=index[row],
            left=sequence.left,
            ends=ends,
            noise=noise[row],
            seen=None if seen is None else seen[row],
            text=partial(getattr, sequence, "text"),
        )
        for row, sequence in enumerate(sequences)
    ]


__all__ = ["decode", "entries_of", "join_all"]
