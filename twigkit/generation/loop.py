"""Generation: prefill, then draft, verify and accept until every row has stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt
from twigkit.generation.draft_model import Frontier, ShallowModel
from twigkit.generation.prefill import Kept, Prefilled
from twigkit.generation.sequences import Limits, Row, sequences
from twigkit.generation.stats import GenerationStats
from twigkit.generation.token_selection import (
    Chooser,
    Decoding,
    GreedyChooser,
    ProcessedChooser,
    Texts,
)
from twigkit.generation.verifier import Target
from twigkit.interfaces.drafter import Drafter
from twigkit.io.timing import Stopwatch
from twigkit.speculative.acceptance import Accepted
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.sampling import Noise
from twigkit.twig.module import Twig


class Generation:
    """The loop over one batch of prompts; it names no strategy.

    Attributes:
        rows: All rows, in the order of the prompts.
        live: Numbers of those that are still in the batch, in the batch's own order.
    """

    def __init__(
        self,
        stack: LayerStack,
        prompt: Prompt,
        prefilled: Prefilled,
        drafter: Drafter,
        limits: Limits,
        *,
        twig: Twig | None = None,
        bucketed: bool = False,
        compiled: Callable[..., Tensor] | None = None,
        decoding: Decoding | None = None,
        seeds: Sequence[int] = (),
    ) -> None:
        """Start behind a prefilled prompt.

        Args:
            stack: The base.
            prompt: The prompt as it was before pruning.
            prefilled: What prefill returned.
            drafter: Proposes tokens.
            limits: When rows stop.
            twig: The twig, if the drafter uses one.
            bucketed: Whether steps have fixed shapes, and the device is asked once per step only.
            compiled: A compiled verification step.
            decoding: How the target's tokens are chosen; ``None`` takes the most likely ones.
            seeds: One seed per row, if tokens are drawn.
        """
        decoding = decoding or Decoding()
        self.stack, self.drafter, self.limits = stack, drafter, limits
        self.prompt, self.cache, self.bucketed = prompt, prefilled.cache, bucketed
        # A compiled step is made for one number of rows, and joint processors know each by place.
        self._fixed = compiled is not None or bool(decoding.lockstep)
        self.frontier = Frontier(prompt.next_rope, prompt.next_index)
        self.rows = [Row(prompt, number, limits) for number in range(len(prompt.ids))]
        self.live = list(range(len(self.rows)))
        self.gains: list[list[int]] = [[] for _ in self.rows]
        self.steps = self.drafted = self.accepted = 0
        self.watch = Stopwatch()
        self.shallow = ShallowModel(
            stack,
            twig,
            self.cache,
            self.frontier,
            eager=not bucketed,
            watch=self.watch,
            texts=lambda: [self.rows[number].text for number in self.live],
            sampling=replace(decoding.sampling, repetition_penalty=1.0) if decoding.draws else None,
        )
        self.target = Target(stack, self.cache, compiled=compiled)
        self._noise = Noise.of(seeds or [0] * len(self.rows), prompt.ids.device)
        self.chooser: Chooser = GreedyChooser()
        if not decoding.plain:
            texts = Texts(
                prompt.ids, prompt.valid, [row.tokens for row in self.rows], limits.padding
            )
            self.chooser = ProcessedChooser(decoding, texts, self._noise, eager=not bucketed)

    def first(self, hidden: Tensor) -> Tensor:
        """Emit the first token of every row.

        Args:
            hidden: States of the last prompt tokens behind the last layer, ``[batch, width]``.

        Returns:
            The roots of the first step, ``[batch]``.
        """
        root = self.chooser.first(self.stack.head(self.stack.norm(hidden)))
        for row, token in zip(self.rows, root.tolist(), strict=True):
            row.push([token])
        self._check_jointly()
        return root

    def run(self, root: Tensor) -> None:
        """Draft, verify and accept until every row has stopped."""
        tables: dict[bool, Candidates] = {}
        decide = getattr(self.drafter, "decide", None)  # see interfaces.drafter.Decides
        self.watch.start()
        while True:
            active = [not self.rows[number].done for number in self.live]
            if not any(active):
                return
            if not self._fixed and not all(active):
                order = staying(active)
                root, active = root[torch.tensor(order, device=root.device)], [True] * len(order)
                self._keep_rows(order)
                tables = {}
            if decide is not None:
                decide(self.shallow.gained, self._room())
            linear = self.drafter.linear
            table = tables[linear] = tables.get(linear) or self._table(root)
            table.reset(root, None if all(active) else torch.tensor(active, device=root.device))
            root = self._step(table, active)

    def _table(self, root: Tensor) -> Candidates:
        """Allocate the table of the steps to come."""
        capacity, noise = self.drafter.capacity, self._noise

        def numbers() -> Tensor:
            return noise.table("draft", self.frontier.index, capacity)

        ends = torch.tensor(sorted(self.limits.eos), dtype=torch.long, device=root.device)
        allocate = Candidates.path if self.drafter.linear else Candidates.tree
        return allocate(root, capacity, numbers=numbers, ends=ends)

    def _keep_rows(self, order: list[int]) -> None:
        """Go on with some rows of the batch; those that have stopped cost nothing any more."""
        self.live = [self.live[row] for row in order]
        self.cache.keep_rows(order)
        self.shallow.keep_rows(order)
        self.chooser.keep(order)
        self._noise = self._noise.rows(torch.tensor(order, device=self.frontier.index.device))

    def _step(self, candidates: Candidates, active: list[bool]) -> Tensor:
        """Run one step and return the next roots."""
        self.shallow.begin(candidates)
        self.watch.lap("host")
        drafted = self.drafter.draft(self.shallow, candidates, self._room())
        table = drafted.in_use()
        if table.sampled:  # how many draws count must not depend on the other rows
            table.alive &= table.depth <= self._rooms(table.depth.device)
        self.watch.lap("propose")
        states = self.shallow.exit_states(table)
        logits = self.target.logits(states, table, self.frontier)
        self.watch.lap("verify")
        accepted = self.chooser.accept(table, logits, self.drafter.height)
        self.watch.lap("accept")
        self._commit(table, accepted, active)
        self.watch.lap("host")
        return accepted.next_token

    def _room(self) -> int:
        """Return the most drafts on a path that can still be used; fixed shapes ask for all."""
        if self.bucketed:
            return self.drafter.height
        live = [self.rows[number] for number in self.live]
        wanted = [self.limits.max_new_tokens - len(row.tokens) for row in live if not row.done]
        return max(wanted) - 1

    def _rooms(self, device: torch.device) -> Tensor:
        """Drafts that each row of the batch can still use, ``[batch, 1]``."""
        most = self.limits.max_new_tokens - 1
        rooms = [[max(most - len(self.rows[number].tokens), 0)] for number in self.live]
        return torch.tensor(rooms, device=device)

    def _commit(self, table: DraftTree, accepted: Accepted, active: list[bool]) -> None:
        """Emit what was accepted and keep its keys and values; the step's one synchronisation."""
        running = torch.tensor(active, device=accepted.count.device)
        count = (accepted.count + 1) * running
        seen = self.shallow.seen(accepted.path, count)
        proposed = table.alive.sum(1) - 1
        report = torch.cat(
            (torch.stack((count, seen, proposed), 1), accepted.emitted(table.tokens)), 1
        ).tolist()
        counts, seens = [line[0] for line in report], [line[1] for line in report]
        for place, (number, line) in enumerate(zip(self.live, report, strict=True)):
            if active[place]:
                counts[place] = self.rows[number].push(line[3 : 3 + line[0]])
                self.gains[number].append(counts[place])
                self.drafted += line[2]
                # A step that ends the row may emit no token of the target's own.
                self.accepted += min(line[0] - 1, counts[place])
        self._check_jointly()
        if any(self.rows[n].done and was for n, was in zip(self.live, active, strict=True)):
            # A row that has just stopped keeps no more than it emitted.
            count = torch.tensor(counts, device=count.device)
            seen = torch.minimum(seen, count)
            seens = [min(pair) for pair in zip(seens, counts, strict=True)]
        self.shallow.commit(accepted.path, count, counts, seen, seens)
        self.target.commit(accepted.path, count, counts, table.linear)
        self.steps += 1

    def _check_jointly(self) -> None:
        """Ask what looks at all rows at once, as transformers does after every token."""
        if self.limits.joint:
            ids = sequences(self.prompt.ids, self.rows, self.limits.padding)
            for check in self.limits.joint:
                for row, stops in zip(self.rows, check(ids), strict=True):
                    row.done = row.done or stops


def staying(active: Sequence[bool]) -> list[int]:
    """Say which rows of a batch go on, in their new order.

    A row keeps its place where it can; the places of those that have stopped are taken by rows
    from the end, so that few have to move.

    Args:
        active: Which rows have not stopped.

    Returns:
        As many rows as are active; row i either is i or lies behind the new end.
    """
    left = sum(active)
    behind = [row for row in range(left, len(active)) if active[row]]
    return [row if active[row] else behind.pop(0) for row in range(left)]


def decode(
    generation: Generation, prefilled: Prefilled, prompt: Prompt, started: float
) -> GenerationStats:
    """Run a generation to its end and measure it.

    Args:
        generation: The loop, behind the prompt.
        prefilled: What prefill returned.
        prompt: The prompt as it was before pruning.
        started: ``time.perf_counter()`` when the call began.

    Returns:
        The statistics; the tokens are in ``generation.rows``.
    """
    root = generation.first(prefilled.hidden)
    prefill_end = time.perf_counter()
    cache = prefilled.cache
    behind_prompt = cache.bytes_used()
    generation.run(root)
    stats = GenerationStats(
        prompt_tokens=prompt.lengths,
        visual_tokens=prompt.visual_counts,
        kept_tokens=_kept_tokens(prefilled.kept, prompt),
        new_tokens=[len(row.tokens) for row in generation.rows],
        steps=generation.steps,
        accepted_lengths=generation.gains,
        drafted_tokens=generation.drafted,
        accepted_tokens=generation.accepted,
        prefill_seconds=prefill_end - started,
        decode_seconds=time.perf_counter() - prefill_end,
        kv_bytes_prompt=behind_prompt,
        kv_bytes=cache.bytes_used(),
        kv_bytes_allocated=cache.bytes_allocated(),
        step_seconds=dict(generation.watch.seconds),
    )
    if cache.twig is not None:
        stats.draft_kv_bytes = cache.twig.bytes_used()
        stats.draft_kv_bytes_allocated = cache.twig.bytes_allocated()
    return stats


def _kept_tokens(kept: list[Kept], prompt: Prompt) -> dict[int, list[int]]:
    """Visual tokens of each row behind each stage."""
    return {
        stage.stage.layer: [
            min(count, found)
            for count, found in zip(stage.stage.keep, prompt.visual_counts, strict=True)
        ]
        for stage in kept
    }
