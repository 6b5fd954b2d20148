"""Generation after prefill: draft, verify and accept until every sequence has stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from twigkit.backbone.context import warn_of_length
from twigkit.backbone.layer_cache import LayerCache
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt
from twigkit.backbone.row_counts import RowCounts
from twigkit.backbone.sliding_window import warn_of_unused_window
from twigkit.generation.batch_pool import BatchPool
from twigkit.generation.captured_decoding import decode, entries_of, join_all
from twigkit.generation.draft_model import CachedDraftModel
from twigkit.generation.outputs import TokenRecord
from twigkit.generation.positions import Positions
from twigkit.generation.prefill import Prefilled
from twigkit.generation.pruning_plan import visual_per_layer
from twigkit.generation.request import GenerationRequest
from twigkit.generation.restart import restart_length, warn_of_restart, with_answer
from twigkit.generation.sequences import GrowingSequence, joined
from twigkit.generation.stats import GenerationStats, kept_tokens
from twigkit.generation.step import SpeculativeStep
from twigkit.generation.token_selection import (
    GreedySelector,
    ProcessedSelector,
    Texts,
    TokenSelector,
    along,
)
from twigkit.generation.verifier import Verifier
from twigkit.io.timing import Stopwatch
from twigkit.speculative.acceptance import Accepted
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.sampling import Noise
from twigkit.twig.module import Twig

logger = logging.getLogger(__name__)


class Generation:
    """The loop over one batch of prompts; it names no strategy.

    Attributes:
        sequences: All sequences, in the order of the prompts.
        live: Numbers of those that are still in the batch, in the batch's own order.
        prefilled: What prefill returned.
        positions: Where the next root stands in the rows of the batch.
        stats: What was done so far.
        scores: Processed scores of the emitted tokens, if they are wanted.
        logits: Their unprocessed logits, if they are wanted.
    """

    def __init__(
        self,
        stack: LayerStack,
        prompt: Prompt,
        fill: Callable[[Prompt], Prefilled],
        request: GenerationRequest,
        *,
        twig: Twig | None = None,
        compiled: Callable[..., Tensor] | None = None,
        batches: BatchPool | None = None,
    ) -> None:
        """Prefill a prompt.

        Args:
            stack: The base.
            prompt: The prompt as it was before pruning.
            fill: Prefills a prompt.
            request: What is asked for.
            twig: The twig, if the drafter uses one.
            compiled: A compiled verification step.
            batches: Where to decode, if steps are captured.
        """
        self.stack, self.prompt, self._fill = stack, prompt, fill
        self.prefilled = prefilled = fill(prompt)
        self.request, self._stop, self._bucketed = request, request.stop, bool(request.bucketed)
        # A compiled step is made for one number of rows, and joint processors know each by place.
        self._fixed = compiled is not None or bool(request.selection.lockstep)
        self.positions = Positions(prompt)
        rows = range(len(prompt.ids))
        self.sequences = [GrowingSequence(prompt, number, self._stop) for number in rows]
        self.live = list(rows)
        restart, width = restart_length(stack.model), prompt.ids.shape[1]
        self._restarts = stack.growing is not None and restart is not None and width < restart
        for sequence in self.sequences:
            sequence.pause = restart - width if self._restarts and restart is not None else None
        self.stats = GenerationStats(
            prompt_tokens=prompt.lengths,
            visual_tokens=prompt.visual_counts,
            kept_tokens=kept_tokens(prefilled.kept, prompt.visual_counts),
            visual_per_layer=visual_per_layer(
                [kept.stage for kept in prefilled.kept], prompt.visual_counts, self.stack.depth
            ),
            accepted_lengths=[[] for _ in rows],
        )
        self.scores = TokenRecord(len(rows)) if request.outputs.scores else None
        self.logits = TokenRecord(len(rows)) if request.outputs.logits else None
        self._twig, self._compiled, self._batches = twig, compiled, batches
        self._noise = Noise.of(request.seeds or [0] * len(rows), prompt.ids.device)
        self._step = self._make_step(twig, compiled)

    def _make_step(
        self, twig: Twig | None, compiled: Callable[..., Tensor] | None
    ) -> SpeculativeStep:
        """Put the parts of a step together."""
        selection, cache = self.request.selection, self.prefilled.cache
        watch = Stopwatch.on(self.prompt.ids.device)
        draft_model = CachedDraftModel(
            self.stack,
            twig,
            cache,
            self.positions,
            fixed_shapes=self._bucketed,
            watch=watch,
            texts=lambda: [self.sequences[number].text for number in self.live],
            sampling=selection.sampling if selection.draws else None,
        )
        verifier = Verifier(self.stack, cache, self.positions, compiled=compiled)
        selector: TokenSelector = self.request.selector or GreedySelector()
        if not selection.greedy:
            tokens = [sequence.tokens for sequence in self.sequences]
            texts = Texts(self.prompt.ids, self.prompt.valid, tokens, self._stop.padding)
            selector = ProcessedSelector(
                selection,
                texts,
                self._noise,
                eager=not self._bucketed,
                keep_scores=self.request.outputs.scores,
            )
        return SpeculativeStep(self.request.drafter, draft_model, verifier, selector, watch)

    # -- the loop ----------------------------------------------------------------------------------

    def run(self, started: float | None = None) -> GenerationStats:
        """Select the first tokens, then draft, verify and accept until every sequence has stopped.

        Args:
            started: ``time.perf_counter()`` when the call began; ``None`` for now.

        Returns:
            The statistics; the tokens are in ``sequences``.
        """
        started = time.perf_counter() if started is None else started
        root = self._first_tokens()
        prefill_end = time.perf_counter()
        self.stats.kv_bytes_prompt = self.prefilled.cache.bytes_used()
        if self._batches is None:
            self._decode(root)
        else:
            self._decode_captured(root, self._batches)
        counts = [len(sequence.tokens) for sequence in self.sequences]
        self.stats.prefill_seconds = prefill_end - started
        self.stats.decode_seconds = time.perf_counter() - prefill_end
        self.stats.new_tokens = counts
        longest = max(map(sum, zip(self.prompt.lengths, counts, strict=True)))
        warn_of_length(self.stack.config, longest, before=self.prompt.span)
        warn_of_unused_window(self.stack.text, self.stack.config, longest)
        logger.debug("%s", self.stats)
        return self.stats

    def _decode(self, root: Tensor) -> None:
        """Draft, verify and accept until every sequence has stopped."""
        self._step.watch.start()
        tables: dict[bool, Candidates] = {}
        decide = getattr(self.request.drafter, "decide", None)  # see interfaces.drafter.Decides
        while any(active := [not self.sequences[number].done for number in self.live]):
            if not self._fixed and not all(active):
                root, active, tables = self._keep_active(root, active), [True] * sum(active), {}
            if self._restarts:
                waits = [self.sequences[number].waits for number in self.live]
                if waits == active:
                    root = self._restart(root)
                else:
                    active = [a and not w for a, w in zip(active, waits, strict=True)]
            if decide is not None:
                decide(self._step.draft_model.gained, self._room())
            linear = self.request.drafter.linear
            table = tables[linear] = tables.get(linear) or self._table(root, linear)
            table.reset(root, None if all(active) else torch.tensor(active, device=root.device))
            tree, logits, accepted = self._step.run(
                table, self._room(), self._rooms(), strict=self._restarts
            )
            self._emit(tree, logits, accepted, active)
            root = accepted.next_token
        self.stats.step_seconds = dict(self._step.watch.seconds)
        self.stats.measure(self.prefilled.cache)

    def _decode_captured(self, root: Tensor, batches: BatchPool) -> None:
        """Do the same in a running batch, whose steps are captured."""
        cache, step, stats = self.prefilled.cache, self._step, self.stats
        seen = step.selector.seen if isinstance(step.selector, ProcessedSelector) else None
        entries = entries_of(
            root,
            self.positions.rope,
            self.positions.index,
            self._noise.state if self.request.seeds else torch.zeros_like(root),
            seen,
            self.sequences,
            self._stop.eos,
        )
        lent = batches.batch(self.stack, self._twig, self.request, cache, self._compiled)
        with lent as batch:
            rows = join_all(batch, cache, entries, self.sequences)
            batch.watch = step.watch
            stats.measure(cache)
            passed = sum(len(sequence.tokens) for sequence in self.sequences)
            per_token = cache.bytes_per_token()
            # The slots hold it now.
            self.prefilled = replace(self.prefilled, cache=LayerCache([], [], None))
            step.draft_model.cache = step.verifier.cache = self.prefilled.cache
            del cache
            step.watch.start()
            decode(batch, rows, self.sequences, stats)
            stats.step_seconds, batch.watch = dict(step.watch.seconds), None
            passed = sum(len(sequence.tokens) for sequence in self.sequences) - passed
            stats.grow(passed, per_token, batch.slots)

    def logits_after(self, root: Tensor) -> Tensor:
        """Compute the target's logits after one more token of every row, without accepting it.

        Args:
            root: The tokens, ``[batch]``.

        Returns:
            ``[batch, vocabulary]``.
        """
        table = self._table(root, linear=True)
        self._step.draft_model.begin(table)
        return self._step.verify(table)[:, 0]

    def _first_tokens(self) -> Tensor:
        """Emit the first token of every sequence; return the roots of the first step."""
        logits = self.stack.head(self.stack.norm(self.prefilled.hidden))
        root = self._step.selector.first(logits)
        for sequence, token in zip(self.sequences, root.tolist(), strict=True):
            sequence.push([token])
        self._record(logits[:, None], [1] * len(self.sequences))
        self._check_jointly()
        return root

    def _table(self, root: Tensor, linear: bool) -> Candidates:
        """Allocate the table of the steps to come."""
        capacity, noise = self.request.drafter.capacity, self._noise

        def numbers() -> Tensor:
            return noise.numbers("draft", self.positions.index, capacity)

        ends = torch.tensor(sorted(self._stop.eos), dtype=torch.long, device=root.device)
        allocate = Candidates.path if linear else Candidates.tree
        return allocate(root, capacity, numbers=numbers, ends=ends)

    def _room(self) -> int:
        """Return the most drafts on a path that can still be used; fixed shapes ask for all."""
        if self._bucketed:
            return self.request.drafter.height
        return max(self.sequences[number].left for number in self.live) - 1

    def _rooms(self) -> list[int]:
        """Return the drafts that each row of the batch can still use.

        Rows whose logits are processed cannot wait for others, so before a restart they get none.
        """
        if self._restarts and not self.request.selection.greedy and len(self.live) > 1:
            return [0] * len(self.live)
        return [max(self.sequences[number].left - 1, 0) for number in self.live]

    def _emit(
        self, tree: DraftTree, logits: Tensor, accepted: Accepted, active: Sequence[bool]
    ) -> None:
        """Emit what was accepted and keep its keys and values; the step's one synchronisation."""
        stats, draft_model = self.stats, self._step.draft_model
        count = accepted.count + 1
        if not all(active):  # or a copy from the host would wait for the device, too
            count = count * torch.tensor(active, device=count.device)
        by_twig = draft_model.staged.count_by_twig(accepted.path, count)
        proposed = tree.alive.sum(1) - 1
        report = torch.cat(
            (torch.stack((count, by_twig, proposed), 1), accepted.emitted(tree.tokens)), 1
        ).tolist()
        counts, seen = [line[0] for line in report], [line[1] for line in report]
        for place, (number, line) in enumerate(zip(self.live, report, strict=True)):
            if active[place]:
                counts[place] = self.sequences[number].push(line[3 : 3 + line[0]])
                stats.accepted_lengths[number].append(counts[place])
                stats.drafted_tokens += line[2]
                # A step that ends the sequence may emit no token of the target's own.
                stats.accepted_tokens += min(line[0] - 1, counts[place])
        if self.scores is not None or self.logits is not None:
            self._record(along(logits, accepted.path), counts)
        self._check_jointly()
        kept, passed = RowCounts(count, counts), RowCounts(by_twig, seen)
        if any(self.sequences[n].done and was for n, was in zip(self.live, active, strict=True)):
            # A sequence that has just stopped keeps no more than it emitted.
            kept = RowCounts.of(counts, count.device)
            passed = passed.at_most(kept)
        self._step.commit(tree, accepted, kept, passed)
        stats.steps += 1
        self._step.watch.lap("host")

    def _record(self, logits: Tensor, counts: Sequence[int]) -> None:
        """Record what emitted tokens were selected from, ``[batch, levels, vocabulary]``."""
        if self.logits is not None:
            self.logits.add(self.live, logits, counts)
        if self.scores is not None:
            scores = self._step.selector.scores
            self.scores.add(self.live, logits if scores is None else scores, counts)

    # -- rows --------------------------------------------------------------------------------------

    def _restart(self, root: Tensor) -> Tensor:
        """Pass prompt and answers anew, as the base does here; return the roots.

        Every row that has not stopped has equally many tokens.
        """
        warn_of_restart(self.stack.model)
        rows = [self.sequences[number] for number in self.live]
        longest = max(len(row.tokens) for row in rows)
        tails = [row.tokens + [self._stop.padding] * (longest - len(row.tokens)) for row in rows]
        last = torch.tensor([tail.pop() for tail in tails], dtype=root.dtype, device=root.device)
        ids = torch.tensor(tails, dtype=torch.long, device=self.prompt.ids.device)
        embedded = self.stack.embed_tokens(ids.reshape(len(rows), -1))
        cache = self._fill(with_answer(self.prompt, self.live, tails, embedded)).cache
        self.prefilled = replace(self.prefilled, cache=cache)
        self._step.draft_model.restart(cache)
        self._step.verifier.cache = cache
        self._restarts = False
        for sequence in self.sequences:
            sequence.pause = None
        return last

    def _keep_active(self, root: Tensor, active: Sequence[bool]) -> Tensor:
        """Drop the rows that have stopped, so that they cost nothing; return the others' roots."""
        order = staying(active)
        places = torch.tensor(order, device=root.device)
        self.live = [self.live[row] for row in order]
        self.prefilled.cache.keep_rows(order)
        self._step.draft_model.keep_rows(order)
        self._step.selector.keep_rows(order)
        self._noise = self._noise.rows(places)
        return root[places]

    def _check_jointly(self) -> None:
        """Ask what looks at all sequences at once, as transformers does after every token."""
        if self._stop.joint:
            ids = joined(self.prompt.ids, self.sequences, self._stop.padding)
            scores = None if self.scores is None else self.scores.by_position()
            for check in self._stop.joint:
                for sequence, stops in zip(self.sequences, check(ids, scores), strict=True):
                    if stops:
                        sequence.end()


def staying(active: Sequence[bool]) -> list[int]:
    """Say which rows of a batch go on, in their new order.

    A row keeps its place where it can; the places of those that have stopped are taken by rows
    from the end, so that few have to move.

    Args:
        active: Which rows have not stopped.

    Returns:
        As many rows as are active; row i either is i or lies past the new end.
    """
    left = sum(active)
    beyond = [row for row in range(left, len(active)) if active[row]]
    return [row if active[row] else beyond.pop(0) for row in range(left)]


__all__ = ["Generation", "staying"]
