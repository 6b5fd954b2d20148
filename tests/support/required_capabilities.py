"""What each built-in family must be able to do: a capability that goes missing fails, not skips."""

_PICTURES = {"batch", "image", "multi-image", "pruning", "text-only"}
_VIDEOS = {"video", "mixed-media"}

REQUIRED: dict[str, set[str]] = {
    "causal_lm": {"batch", "text-only", "sliding-window"},
    "cohere2": {"batch", "layered-rope", "sliding-window", "text-only"},
    "gemma3": _PICTURES | {"bidirectional-image", "layered-rope", "sliding-window"},
    "gemma3_text": {"batch", "layered-rope", "sliding-window", "text-only"},
    "gemma4": _PICTURES
    | {"bidirectional-image", "dynamic-resolution", "layered-rope", "sliding-window"},
    "gemma4_text": {"batch", "layered-rope", "sliding-window", "text-only"},
    "gpt_oss": {"batch", "sliding-window", "text-only"},
    "granite4_vision": _PICTURES | {"deepstack", "dynamic-resolution"},
    "llava": _PICTURES | {"vision"},
    "llava_next": _PICTURES | {"dynamic-resolution", "sliding-window", "vision"},
    "llava_next_video": _PICTURES | _VIDEOS | {"dynamic-resolution"},
    "mllama": set(),  # recognised and refused
    "paligemma": _PICTURES | {"bidirectional-image", "sliding-window"},
    "qwen2_vl": _PICTURES | _VIDEOS | {"dynamic-resolution", "m-rope", "vision"},
    "qwen3_vl": _PICTURES | _VIDEOS | {"deepstack", "dynamic-resolution", "m-rope"},
    "qwen_vl": set(),  # recognised and refused
    "smolvlm": _PICTURES | _VIDEOS | {"dynamic-resolution"},
    "video_llava": _PICTURES | _VIDEOS | {"vision"},
}
