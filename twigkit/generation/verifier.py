"""The verifier: the target's layers after the exit layer, over all nodes of a step in one pass."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.layer_cache import LayerCache
from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.masks import Masks
from twigkit.backbone.rotary import Rope
from twigkit.backbone.row_counts import RowCounts
from twigkit.generation.positions import Positions
from twigkit.generation.staged_nodes import stage_segment
from twigkit.speculative.draft_tree import DraftTree


class Verifier:
    """Computes the target's logits for a tree of nodes in one pass over the remaining layers.

    Attributes:
        stack: The base.
        cache: Keys and values of the prompt and of what was accepted.
        positions: Where the root stands; the draft model moves it on.
    """

    def __init__(
        self,
        stack: LayerStack,
        cache: LayerCache,
        positions: Positions,
        *,
        compiled: Callable[..., Tensor] | None = None,
    ) -> None:
        """Start after a prefilled prompt.

        Args:
            stack: The base.
            cache: The cache that prefill filled.
            positions: Where the first root stands.
            compiled: A compiled :func:`run_deep`; ``None`` runs it as it is.
        """
        self.stack, self.cache, self.positions = stack, cache, positions
        self._run = compiled or run_deep

    def logits(self, states: Tensor, tree: DraftTree) -> Tensor:
        """Compute the target's logits after every node of a tree.

        Args:
            states: Exit-layer states, ``[batch, nodes, width]``.
            tree: The nodes.

        Returns:
            ``[batch, nodes, vocabulary]``.
        """
        nodes = states.shape[1]
        depth = tree.depth[:, :nodes]
        index = self.positions.indices(depth)
        rope = self.positions.tables(self.stack, states, depth)
        visible = None if tree.linear else tree.ancestors[:, :nodes, :nodes]
        masks: list[Masks] = []
        for segment in self.cache.deep:
            windows = self.stack.windows(segment.first, segment.last)
            masks.append(stage_segment(self.stack, segment, index, visible, windows, states.dtype))
        return self._run(self.stack, self.cache.deep, states, rope, masks)

    def commit(self, path: Tensor, accepted: RowCounts, *, linear: bool) -> None:
        """Keep the keys and values of an accepted path and drop the others.

        Args:
            path: Node ids from the root down, ``[batch, height + 1]``.
            accepted: How many of them are accepted, root included.
            linear: Whether the tree was a path, whose nodes lie in order already.
        """
        for segment in self.cache.deep:
            segment.commit(accepted, None if linear else path)


def run_deep(
    stack: LayerStack, segments: list[Segment], hidden: Tensor, rope: Rope, masks: list[Masks]
) -> Tensor:
    """Run the layers after the exit layer and the head over staged nodes.

    Tensors and layers only, so that ``torch.compile(run_deep, fullgraph=True)`` holds; in the
    bucketed view its shapes change only when a bucket is full.

    Args:
        stack: The base.
        segments: The deep segments, with the nodes staged.
        hidden: Exit-layer states, ``[batch, nodes, width]``.
        rope: Rotary tables of the nodes.
        masks: Additive masks of each segment, by window.

    Returns:
        Logits, ``[batch, nodes, vocabulary]``.
    """
    for segment, mask in zip(segments, masks, strict=True):
        hidden = stack.run(
            hidden, segment.first, segment.last, rope=rope, masks=mask, cache=segment
        )
    return stack.head(stack.norm(hidden))


__all__ = ["Verifier", "run_deep"]
