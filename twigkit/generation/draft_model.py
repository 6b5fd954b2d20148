"""The draft model in a step: base layers up to the exit layer, then the twig, with KV caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from twigkit.backbone.layer_cache import LayerCache
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.row_counts import RowCounts
from twigkit.errors import CapabilityError, PluginError
from twigkit.generation.pending_tokens import PendingTokens
from twigkit.generation.positions import Positions
from twigkit.generation.staged_nodes import NodeBuffers, StagedNodes, node_ids, stage_segment
from twigkit.io.timing import Stopwatch
from twigkit.plugins.blame import blamed_on, origin_of
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree
from twigkit.speculative.sampling import Sampling
from twigkit.twig.module import Twig


class CachedDraftModel:
    """Passes nodes through the draft model, each at most once, and keeps their exit states.

    The calls of one step, and what each leaves::

        begin --> expand --> expand --> ... --> exit_states --> commit --> (next step)
                  |                             |               |
                  |  nodes staged in the caches |               |  accepted path kept, rest dropped;
                  |  of base layers and twig;   |               |  accepted tokens that the twig has
                  |  pending tokens first       |               |  not passed become pending
                  |                             |
                  |                             |  nodes that no expand passed: base layers only
                  |
                  |  (a plain step or one without twig calls no expand)

        staged    what this step has passed so far; new at every begin
        pending   accepted tokens that the twig's cache lacks; empty, or taken by the next expand

    Attributes:
        staged: Nodes of this step that were passed.
        pending: Accepted tokens that the twig's KV cache lacks.
        positions: Where the root stands; shared with the verifier.
        fixed_shapes: Whether every step must hand over equally many nodes, whatever their values.
        may_ask: Whether the device may be asked for values, such as to stop drafting early.
        gained: Tokens that each row of the last step gained, on the host; 0 for finished rows.
        sampling: How the target's tokens are drawn; ``None`` if it takes the most likely ones.
        buffers: Storage that the nodes of all steps share; ``None`` allocates anew in each.
    """

    staged: StagedNodes

    def __init__(
        self,
        stack: LayerStack,
        twig: Twig | None,
        cache: LayerCache,
        positions: Positions,
        *,
        fixed_shapes: bool,
        may_ask: bool = True,
        watch: Stopwatch | None = None,
        texts: Callable[[], list[list[int]]] = list,
        sampling: Sampling | None = None,
        buffers: NodeBuffers | None = None,
    ) -> None:
        """Start after a prefilled prompt.

        Args:
            stack: The base.
            twig: The twig, if anything drafts with one.
            cache: The cache that prefill filled.
            positions: Where the first root stands.
            fixed_shapes: Whether every step has the same shapes, whatever the values.
            may_ask: Whether the device may be asked for values.
            watch: Measures the parts of a step.
            texts: Returns the texts of the rows so far.
            sampling: How the target's tokens are drawn, if they are.
            buffers: Storage that the nodes of all steps share, for steps that are captured.
        """
        self.stack, self.twig, self.cache, self.positions = stack, twig, cache, positions
        self.fixed_shapes, self.may_ask = fixed_shapes, may_ask
        self._watch = watch or Stopwatch()
        self._texts, self.sampling = texts, sampling
        self.gained: list[int] = []
        self.pending: PendingTokens | None = None
        self.buffers = buffers

    @property
    def texts(self) -> list[list[int]]:
        """Prompt and answer so far of each row, the root last; see ``twigkit.DraftModel``."""
        return self._texts()

    def begin(self, candidates: Candidates) -> None:
        """Start a step: nothing is staged."""
        self.staged = StagedNodes(candidates, self.buffers)

    # -- drafting ----------------------------------------------------------------------------------

    def expand(self, candidates: Candidates, nodes: range | Tensor) -> Tensor:
        """Pass nodes through base layers and twig.

        Args:
            candidates: The step's nodes.
            nodes: Ids of nodes that were not passed yet, ancestors first, the same number in every
                row: a range or ``[batch, nodes]``.

        Returns:
            The twig's normed states, ``[batch, nodes, width]``.

        Raises:
            CapabilityError: If there is no twig, or its keys and values were not kept.
            PluginError: If a range holds a node that was passed before, or a token is unknown.
        """
        if self.twig is None or self.cache.twig is None:
            raise CapabilityError("drafting needs a twig; load one, or use the drafter 'plain'")
        self._watch.lap("propose")
        if isinstance(nodes, range):
            self.staged.draft(nodes)
        ids = node_ids(candidates, nodes)
        hidden = self._run_base(candidates, ids, None)
        normed = self._run_twig(self.twig, candidates, ids, hidden)
        self._watch.lap("draft")
        return normed

    def logits(self, hidden: Tensor, head: str = "lm") -> Tensor:
        """Apply a head of the twig, ``[batch, nodes, width]`` to its output.

        Raises:
            CapabilityError: If there is no such head.
            PluginError: If it fails, or its output is no tensor of these nodes.
        """
        if self.twig is None:
            raise CapabilityError("there is no twig, so there are no heads")
        self._watch.lap("propose")
        module = self.twig.head(head)
        with blamed_on("head", module):
            logits: object = module(hidden)
        if not isinstance(logits, Tensor) or logits.shape[:2] != hidden.shape[:2]:
            made = getattr(logits, "shape", None)
            found = f"a {type(logits).__name__}" if made is None else list(made)
            raise PluginError(
                f"the head {origin_of('head', module)} makes {found} of states "
                f"{list(hidden.shape)}; expected [batch, nodes, ..., vocabulary]"
            )
        self._watch.lap("draft")
        return logits

    def _run_base(self, candidates: DraftTree, ids: Tensor, real: Tensor | None) -> Tensor:
        """Pass nodes through the base layers up to the exit layer.

        Args:
            candidates: The step's nodes.
            ids: Node ids, ``[batch, nodes]``.
            real: Which of them are not padding, ``[batch, nodes]`` bool; ``None`` for all.

        Returns:
            Exit-layer states, ``[batch, nodes, width]``.
        """
        hidden = self._embed(candidates.tokens.gather(1, ids))
        steps = candidates.depth.gather(1, ids)
        index = self.positions.indices(steps)
        self.staged.stage(ids, real)
        visible = self.staged.visible(candidates, ids)
        rope = self.positions.tables(self.stack, hidden, steps) if self.cache.shallow else {}
        for segment in self.cache.shallow:
            windows = self.stack.windows(segment.first, segment.last)
            masks = stage_segment(self.stack, segment, index, visible, windows, hidden.dtype)
            hidden = self.stack.run(
                hidden, segment.first, segment.last, rope=rope, masks=masks, cache=segment
            )
        self.staged.add_exit_states(hidden)
        return hidden

    def _embed(self, tokens: Tensor) -> Tensor:
        """Embed drafted tokens; a GPU has no way to say which of them is none of the base's."""
        try:
            return self.stack.embed_tokens(tokens)
        except IndexError as error:
            least, most = int(tokens.min()), int(tokens.max())
            raise PluginError(
                f"the drafted token ids lie between {least} and {most}, and the base does not "
                "embed all of them; a drafter may propose ids of the base's vocabulary alone"
            ) from error

    def _run_twig(self, twig: Twig, candidates: Candidates, ids: Tensor, hidden: Tensor) -> Tensor:
        """Pass nodes through the twig, after the tokens that are pending; return normed states."""
        segment, pending, staged = self.cache.twig, self.pending, self.staged
        assert segment is not None
        staged.by_twig = staged.passed
        steps = candidates.depth.gather(1, ids)
        visible = staged.visible(candidates, ids)
        if pending is not None:
            first = segment.staged == 0
            if first:
                hidden = torch.cat((pending.hidden, hidden), 1)
                steps = torch.cat((pending.steps, steps), 1)
            if visible is None and not pending.unpadded:
                visible = staged.ancestors(candidates, ids)
            if visible is not None:
                visible = pending.before(visible, staged=not first)
            steps = torch.maximum(steps, -self.positions.index[:, None])
        index = self.positions.indices(steps)
        masks = stage_segment(
            self.stack, segment, index, visible, twig.windows(self.stack), hidden.dtype
        )
        rope = self.positions.tables(self.stack, hidden, steps)
        states = twig.run(hidden, self.stack, rope=rope, masks=masks, cache=segment)
        normed: Tensor = twig.norm(states[:, -ids.shape[1] :])
        return normed

    # -- verification ------------------------------------------------------------------------------

    def exit_states(self, tree: DraftTree) -> Tensor:
        """Return the exit-layer states of the tree to verify; nodes not drafted from run now.

        Args:
            tree: The nodes to verify.

        Returns:
            ``[batch, nodes, width]`` in the tree's order.
        """
        self.staged.renumber(tree)
        missing = self.staged.missing(tree, fixed_shapes=self.fixed_shapes)
        if missing is not None:
            self._run_base(tree, *missing)
        return self.staged.exit_states(tree)

    # -- committing --------------------------------------------------------------------------------

    def commit(self, path: Tensor, accepted: RowCounts, by_twig: RowCounts) -> None:
        """Keep the accepted path in the caches; what the twig has not passed becomes pending.

        Args:
            path: Node ids from the root down, ``[batch, height + 1]``.
            accepted: How many of them are accepted, root included.
            by_twig: How many of those the twig has passed (:meth:`StagedNodes.count_by_twig`).
        """
        self.gained = accepted.host
        slots = self.staged.slots(path)
        for segment in self.cache.shallow:
            segment.commit(accepted, slots)
        if self.cache.twig is not None:
            if self.staged.by_twig:
                self._commit_twig(by_twig, slots)
            assert self.staged.verified is not None
            self.pending = PendingTokens.gather(
                self.pending, self.staged.verified, path, accepted, by_twig
            )
        self.positions.advance(accepted.device)

    def _commit_twig(self, by_twig: RowCounts, slots: Tensor | None) -> None:
        """Keep what the twig has passed in its cache: the pending tokens, then the path."""
        assert self.cache.twig is not None
        if slots is not None:  # of nodes that the twig has not passed, which do not count
            slots = slots.clamp(max=self.staged.by_twig - 1)
        if self.pending is None:
            self.cache.twig.commit(by_twig, slots)
            return
        slots = self.pending.slots_before(slots, by_twig)
        self.cache.twig.commit(self.pending.count + by_twig, slots)
        self.pending = None

    def restart(self, cache: LayerCache) -> None:
        """Go on with a cache that holds every token before the root."""
        self.cache, self.pending = cache, None

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in the order given; :class:`LayerCache` has its own."""
        self.positions.keep_rows(rows)
        if self.pending is not None:
            self.pending = self.pending.keep_rows(rows)


__all__ = ["CachedDraftModel"]
