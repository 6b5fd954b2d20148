"""What stands for a base in a twig's manifest, so that another base is noticed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.linear_map import (
    columns,
    is_plain_map,
    is_plain_weight,
    is_quantised,
    map_size,
)
from twigkit.backbone.placement import in_memory

_SAMPLES = 8
_TOLERANCE = 2e-3
_QUANTISED_TOLERANCE = 0.3
_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "rope_parameters",
)


def fingerprint(stack: LayerStack) -> dict[str, Any]:
    """Describe a base so that another one is noticed.

    Args:
        stack: The base.

    Returns:
        The text configuration's shape-giving fields, and name, shape and a few values of the
        weights that the twig depends on: the embedding and the layers that it shares or copies are
        sampled evenly over the depth. Values are what the weights stand for, however the base
        stores them: dequantised, with adapters, brought from where they are offloaded.

    Raises:
        CapabilityError: If the weights of a quantised base cannot be read here.
    """
    config = stack.config.to_dict()
    weights: dict[str, dict[str, Any]] = {}
    found = list(_sampled_weights(stack))
    # Of a base that was dequantised while it was loaded, nothing else tells.
    everywhere = _loaded_quantised(stack) and not any(is_quantised(part) for _, part in found)
    for name, part in found:
        shape, values = _sample(part, stack.dtype)
        weights[name] = {"shape": shape, "values": [round(v, 6) for v in values.float().tolist()]}
        if everywhere or is_quantised(part):
            weights[name]["quantised"] = True
    return {"config": {f: config[f] for f in _FIELDS if f in config}, "weights": weights}


def _loaded_quantised(stack: LayerStack) -> bool:
    """Say whether the base was loaded from a quantised checkpoint."""
    kept = getattr(stack.model.config, "quantization_config", None)
    # transformers sets this on no other model; it is False where the weights were dequantised.
    return kept is not None or hasattr(stack.model, "is_quantized")


def _sampled_weights(stack: LayerStack) -> Iterator[tuple[str, nn.Module]]:
    """Pick the matrices that stand for a base: modules whose weight they are."""
    yield "embedding", stack.model.get_input_embeddings()
    for number in sorted({0, 1, stack.depth // 2, stack.depth - 1} & set(range(stack.depth))):
        for name, part in itertools.islice(_matrices(stack.text.layers[number]), 2):
            yield f"layers.{number}.{name}", part


def _matrices(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List the modules of a layer that are linear maps or hold one matrix, the outer ones only."""
    inside: set[nn.Module] = set()
    for name, part in layer.named_modules():
        if part in inside:
            continue
        if map_size(part) is not None or getattr(getattr(part, "weight", None), "ndim", 0) == 2:
            inside.update(part.modules())
            yield f"{name}.weight", part


@torch.no_grad()
def _sample(part: nn.Module, dtype: torch.dtype) -> tuple[list[int], Tensor]:
    """Return the shape of a module's matrix and some of its values."""
    with in_memory(part):
        size = map_size(part)
        if size is None or is_plain_map(part):
            weight: Any = part.weight
            if is_plain_weight(weight):
                flat = weight.flatten()
                return list(weight.shape), flat[_places(flat.numel()).to(flat.device)]
    if size is None:  # an embedding
        rows, width = weight.shape
        places = _places(rows * width)
        states = part((places // width).to(weight.device))
        return [rows, width], states[torch.arange(_SAMPLES), places % width]
    places = _places(size[0] * size[1])
    found = columns(part, places % size[1], dtype)
    return list(size), found[torch.arange(_SAMPLES), (places // size[1]).to(found.device)]


def _places(count: int) -> Tensor:
    """Return the places of the samples among ``count`` values, ``[samples]`` long."""
    exact = torch.float32 if count < 1 << 24 else torch.float64
    return torch.linspace(0, count - 1, _SAMPLES, dtype=exact, device="cpu").long()


def compare_fingerprints(saved: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Name the differences between the base that a twig was grown on and the one at hand.

    Where one of the two is quantised, the other's values are equal to its own up to the error of
    quantisation: 10 % of their root mean square with four bits, and the tolerance is 30 %.
    """
    problems = []
    for key in sorted({*saved.get("config", {}), *found["config"]}):
        old, new = saved.get("config", {}).get(key), found["config"].get(key)
        if not _same(old, new):
            problems.append(f"{key} is {new!r}, the twig's base had {old!r}")
    for name in sorted({*saved.get("weights", {}), *found["weights"]}):
        old, new = saved.get("weights", {}).get(name), found["weights"].get(name)
        if old is None or new is None:
            which = "this base" if old is None else "the twig's base"
            problems.append(f"weight {name} is known of {which} only")
            continue
        if new["shape"] != old["shape"] or len(new["values"]) != len(old["values"]):
            problems.append(f"weight {name} has shape {new['shape']}, expected {old['shape']}")
            continue
        if not all(map(math.isfinite, new["values"])):
            problems.append(f"weight {name} has values that are no numbers (NaN or infinite)")
            continue
        scale = max(map(abs, old["values"]), default=1.0) or 1.0
        gaps = [abs(a - b) for a, b in zip(old["values"], new["values"], strict=True)]
        gap = max(gaps)
        if old.get("quantised") or new.get("quantised"):
            same = math.hypot(*gaps) <= _QUANTISED_TOLERANCE * math.hypot(*old["values"])
        else:
            same = gap <= _TOLERANCE * max(scale, 1e-3) * 10
        if not same:
            problems.append(f"the values of weight {name} differ by up to {gap:.3g}")
    return problems


def _same(old: Any, new: Any) -> bool:
    """Compare two settings; a number may have been through single precision."""
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-6)
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    return bool(old == new)
