"""Tiny checkpoints with eight-bit floating-point weights, as published ones are laid out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

BLOCK = 64
"""Rows and columns that share a scale."""


def write_fp8(model: Any, folder: Path) -> None:
    """Write a model with its layers' matrices as float8 with a scale per block.

    Args:
        model: The model; its widths are multiples of :data:`BLOCK`.
        folder: Where to.
    """
    model.save_pretrained(folder)
    state: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if name.startswith("model.layers.") and weight.ndim == 2:
            rows, columns = (size // BLOCK for size in weight.shape)
            blocks = weight.view(rows, BLOCK, columns, BLOCK)
            scale = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
            scaled = (blocks / scale[:, None, :, None]).view(weight.shape)
            state[name] = scaled.to(torch.float8_e4m3fn)
            state[f"{name}_scale_inv"] = scale
        else:
            state[name] = weight.clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": ["lm_head"],
    }
    path.write_text(json.dumps(config))
