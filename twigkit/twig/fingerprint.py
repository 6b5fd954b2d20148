"""What stands for a base in a twig's manifest, so that another base is noticed."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from twigkit.backbone.layer_stack import LayerStack

_SAMPLES = 8
_TOLERANCE = 2e-3
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
        sampled evenly over the depth.
    """
    config = stack.config.to_dict()
    weights = {}
    for name, tensor in _sampled_weights(stack):
        flat = tensor.detach().flatten()
        place = torch.linspace(0, flat.numel() - 1, _SAMPLES, device=flat.device).long()
        values = [round(v, 6) for v in flat[place].float().tolist()]
        weights[name] = {"shape": list(tensor.shape), "values": values}
    return {"config": {f: config[f] for f in _FIELDS if f in config}, "weights": weights}


def _sampled_weights(stack: LayerStack) -> list[tuple[str, Tensor]]:
    """Pick the weights that stand for a base."""
    picked = [("embedding", stack.model.get_input_embeddings().weight)]
    for number in sorted({0, 1, stack.depth // 2, stack.depth - 1} & set(range(stack.depth))):
        layer = stack.text.layers[number]
        names = [name for name, p in layer.named_parameters() if p.ndim == 2]
        found = [(name, _in_memory(layer, name)) for name in names[:2]]
        picked += [(f"layers.{number}.{name}", p) for name, p in found if not p.is_meta]
    return picked


def _in_memory(layer: nn.Module, name: str) -> Tensor:
    """Return a weight, brought from where accelerate has offloaded it to."""
    owner = layer.get_submodule(name.rpartition(".")[0])
    if not layer.get_parameter(name).is_meta:
        return layer.get_parameter(name)
    with align_module_device(owner):
        return layer.get_parameter(name).detach().clone()


def compare_fingerprints(saved: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Name the differences between the base that a twig was grown on and the one at hand."""
    problems = []
    for key in sorted({*saved.get("config", {}), *found["config"]}):
        old, new = saved.get("config", {}).get(key), found["config"].get(key)
        if old != new:
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
        gap = max(abs(a - b) for a, b in zip(old["values"], new["values"], strict=True))
        if gap > _TOLERANCE * max(scale, 1e-3) * 10:
            problems.append(f"the values of weight {name} differ by up to {gap:.3g}")
    return problems
