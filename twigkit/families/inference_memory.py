"""What inference takes in memory, worked out from a base's shape alone."""

from __future__ import annotations

from twigkit.families.sizing import Shape
from twigkit.interfaces.budget import keep_counts

HALF = 2
"""Bytes of a number in half precision."""

TEXT, NEW = 60, 256
"""Text tokens of the prompt and tokens of the answer that are counted."""

NODES = 61
"""Nodes of the largest step that is counted: the paper's tree, root included."""


def inference_memory(shape: Shape) -> dict[str, int]:
    """Add up what one prompt and its answer hold, in half precision, one row at a time.

    Not counted: what the vision tower needs while it runs, and what the allocator wastes.

    Args:
        shape: The base and a twig on it.

    Returns:
        Bytes by what they hold.
    """
    visual = 0 if shape.visual is None else shape.visual.count
    found = {"weights of the base": HALF * shape.base_parameters}
    if shape.depth:
        found["weights of the twig"] = HALF * shape.twig_parameters
    tokens = visual + TEXT + NEW
    found[f"KV, {visual + TEXT} prompt and {NEW} new tokens"] = shape.kv_bytes * tokens
    if shape.keep:
        budget = min(shape.keep)
        found[f"KV, the same pruned to {budget} visual tokens per layer"] = _pruned(shape, budget)
    if not shape.depth:  # nothing drafts
        return found
    found["KV of the twig"] = shape.twig_kv_bytes * tokens
    found["KV slots of a step"] = (shape.kv_bytes + shape.twig_kv_bytes) * NODES
    found[f"buffers of a captured step of {NODES} nodes"] = step_bytes(shape, NODES)
    found["captured prefill of the prompt"] = prefill_bytes(shape, visual + TEXT)
    return found


def _pruned(shape: Shape, budget: int) -> int:
    """Bytes of the cache where visual tokens are budget per layer on average."""
    visual = 0 if shape.visual is None else shape.visual.count
    kept = keep_counts(
        [visual], budget, depth=shape.layers, exit_layer=shape.exit_layer, wipe=shape.wipe_layer
    )[0]
    held = shape.exit_layer * visual + (shape.wipe_layer - shape.exit_layer) * kept
    return shape.kv_bytes // shape.layers * (held + shape.layers * (TEXT + NEW))


def step_bytes(shape: Shape, nodes: int) -> int:
    """Count what a step of so many nodes works in: a layer's states, and the logits twice.

    Layers run one after the other, so that one layer's states are held at a time; logits are held
    in half precision and, where they are compared, in full.

    Args:
        shape: The base.
        nodes: Nodes that are verified, root included.
    """
    return nodes * (_layer_bytes(shape) + 3 * HALF * shape.vocabulary)


def prefill_bytes(shape: Shape, tokens: int) -> int:
    """Count what a captured prefill holds: all keys and values once more, and a layer's states.

    Args:
        shape: The base and a twig on it.
        tokens: Tokens of the prompt.
    """
    return tokens * (shape.kv_bytes + shape.twig_kv_bytes + _layer_bytes(shape))


def _layer_bytes(shape: Shape) -> int:
    """Bytes of one token's states in a layer."""
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_width
    return HALF * (4 * shape.width + heads + 3 * shape.inner)


__all__ = ["inference_memory", "prefill_bytes", "step_bytes"]
