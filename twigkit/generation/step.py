"""One speculative step: draft a tree, verify it in one pass, accept a path, keep what it cost.

The draft model is the base's first layers with the twig on them; the verifier is the rest of the
base. Both share the caches of the first layers, and no layer runs twice for a node.

Source: TwigVLM, arXiv 2503.14075 §4.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twigkit.backbone.row_counts import RowCounts
from twigkit.generation.draft_model import CachedDraftModel
from twigkit.generation.strategy_answers import checked_tree, drafting
from twigkit.generation.token_selection import TokenSelector
from twigkit.generation.verifier import Verifier
from twigkit.interfaces.drafter import Drafter
from twigkit.io.timing import Stopwatch
from twigkit.speculative.acceptance import Accepted
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree


@dataclass(frozen=True)
class SpeculativeStep:
    """The parts of a step and the order in which they work.

    Attributes:
        drafter: Proposes tokens.
        draft_model: Passes nodes through the first layers and the twig.
        verifier: Passes all of them through the remaining layers.
        selector: Selects the target's tokens.
        watch: Measures the parts.
    """

    drafter: Drafter
    draft_model: CachedDraftModel
    verifier: Verifier
    selector: TokenSelector
    watch: Stopwatch

    def run(
        self, candidates: Candidates, room: int, rooms: list[int], *, strict: bool = False
    ) -> tuple[DraftTree, Tensor, Accepted]:
        """Draft, verify and accept.

        Args:
            candidates: A table that holds the root alone.
            room: Most drafts that are worth proposing on a path.
            rooms: The same for each row.
            strict: Whether no row may go past its own, even if that is cut off afterwards.

        Returns:
            The tree, the target's logits after each of its nodes, ``[batch, nodes, vocabulary]``,
            and what was accepted.
        """
        self.draft_model.begin(candidates)
        self.watch.lap("host")
        with drafting(self.drafter):
            drafted = self.drafter.draft(self.draft_model, candidates, room)
            tree = checked_tree(self.drafter, drafted)
        if tree.sampled or strict:  # how many draws count must not depend on the other rows
            tree.alive &= tree.depth <= torch.tensor(rooms, device=tree.depth.device)[:, None]
        self.watch.lap("propose")
        logits = self.verify(tree)
        self.watch.lap("verify")
        accepted = self.selector.accept(tree, logits, self.drafter.height)
        self.watch.lap("accept")
        return tree, logits, accepted

    def verify(self, tree: DraftTree) -> Tensor:
        """Compute the target's logits after every node, ``[batch, nodes, vocabulary]``."""
        states = self.draft_model.exit_states(tree)
        return self.verifier.logits(states, tree)

    def commit(
        self, tree: DraftTree, accepted: Accepted, count: RowCounts, by_twig: RowCounts
    ) -> None:
        """Keep the keys and values of the accepted path, and drop those of all other nodes.

        Args:
            tree: What was verified.
            accepted: The path.
            count: Nodes to keep of each row, root included; none of a row that has stopped.
            by_twig: How many of them the twig has passed.
        """
        self.draft_model.commit(accepted.path, count, by_twig)
        self.verifier.commit(accepted.path, count, linear=tree.linear)


__all__ = ["SpeculativeStep"]
