"""What adapters can declare that a family does, one sentence each."""

from __future__ import annotations

__all__ = ["ADAPTER_CAPABILITIES", "PICTURES", "VIDEOS"]


ADAPTER_CAPABILITIES = {
    "batch": "Left-padded batches of prompts of different lengths.",
    "text-only": "Prompts without a picture, alone or beside others that have one.",
    "image": "Prompts with a picture.",
    "multi-image": "Prompts with several pictures.",
    "video": "Prompts with a video.",
    "mixed-media": "Pictures and videos in one prompt.",
    "dynamic-resolution": "Pictures of different sizes have different numbers of visual tokens.",
    "pruning": "Visual tokens lie in the prompt and can be dropped between layers.",
    "m-rope": "Visual tokens have positions in time, height and width.",
    "sliding-window": "Some or all layers see only the last tokens.",
    "layered-rope": "Layers differ in their rotary tables.",
    "bidirectional-image": "The tokens of a picture see each other both ways.",
    "vision": "What the vision tower makes of the pictures can be looked at by pruners.",
    "deepstack": "Visual features are added after early layers too, and go with their tokens.",
}
"""Names that an adapter may put into ``capabilities``, and what each promises."""

PICTURES = frozenset({"batch", "image", "multi-image", "pruning", "text-only"})
"""What nearly every family with pictures in its prompt can do."""

VIDEOS = PICTURES | {"mixed-media", "video"}
"""The same with videos, alone and beside pictures."""
