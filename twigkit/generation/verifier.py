"""The target at work in a step: the layers behind the exit layer, over a whole table at once."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from twigkit.backbone.kv_cache import LayerCache, Segment
from twigkit.backbone.layer_stack import LayerStack, Rope
from twigkit.backbone.masks import Masks
from twigkit.generation.draft_model import Frontier, stage_segment
from twigkit.speculative.draft_tree import DraftTree


class Target:
    """Verifies a table of nodes in one pass over the base's remaining layers.

    Attributes:
        stack: The base.
        cache: Keys and values of the prompt and of what was accepted.
    """

    def __init__(
        self, stack: LayerStack, cache: LayerCache, *, compiled: Callable[..., Tensor] | None = None
    ) -> None:
        """Start behind a prefilled prompt.

        Args:
            stack: The base.
            cache: The cache that prefill filled.
            compiled: A compiled :func:`run_deep`; ``None`` runs it as it is.
        """
        self.stack, self.cache = stack, cache
        self._run = compiled or run_deep

    def logits(self, states: Tensor, table: DraftTree, frontier: Frontier) -> Tensor:
        """Compute the target's logits after every node of a table.

        Args:
            states: Exit states, ``[batch, nodes, width]``.
            table: The nodes.
            frontier: Where the root stands.

        Returns:
            ``[batch, nodes, vocabulary]``.
        """
        nodes = states.shape[1]
        depth = table.depth[:, :nodes]
        index = frontier.index[:, None] + depth
        positions = frontier.rope[:, None] + depth
        rope = self.stack.rope(states, positions.expand(self.stack.channels, -1, -1))
        among = None if table.linear else table.ancestors[:, :nodes, :nodes]
        masks: list[Masks] = []
        for segment in self.cache.deep:
            windows = self.stack.windows(segment.first, segment.last)
            masks.append(stage_segment(self.stack, segment, index, among, windows, states.dtype))
        return self._run(self.stack, self.cache.deep, states, rope, masks)

    def commit(self, path: Tensor, count: Tensor, counts: list[int], linear: bool) -> None:
        """Keep the keys and values of an accepted path and drop the others.

        Args:
            path: Table ids from the root down, ``[batch, height + 1]``.
            count: How many of them are accepted, root included, ``[batch]``.
            counts: The same on the host.
            linear: Whether the table was a path, whose nodes lie in order already.
        """
        for segment in self.cache.deep:
            segment.commit(count, counts, None if linear else path)


def run_deep(
    stack: LayerStack, segments: list[Segment], hidden: Tensor, rope: Rope, masks: list[Masks]
) -> Tensor:
    """Run the deep layers and the head over staged nodes: the verification step.

    Tensors and layers only, so that ``torch.compile(run_deep, fullgraph=True)`` holds; in the
    bucketed view its shapes change only when a bucket is full.

    Args:
        stack: The base.
        segments: The deep segments, with the nodes staged.
        hidden: Exit states, ``[batch, nodes, width]``.
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
