"""Writes a trained demo model as a Hugging Face checkpoint folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, LlavaForConditionalGeneration

from twigkit.demo.recipe.build import BOS, EOS, PAD, build_processor


def export_base(model: LlavaForConditionalGeneration, folder: Path, card: str) -> None:
    """Write model, processor and card to a temporary folder, then put it in place.

    Weights are stored in float16 to keep the package small; the configuration says float32, so that
    loading without a dtype gives a float32 model.

    Args:
        model: The trained model; stays as it is.
        folder: Where the checkpoint goes; an older one there is replaced.
        card: Text of ``README.md``.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False
    )
    half.to(torch.float16).save_pretrained(part)
    build_processor().save_pretrained(part)
    _say_float32(part / "config.json")
    (part / "model.safetensors").chmod(0o644)
    (part / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, folder)


def _say_float32(path: Path) -> None:
    """Name float32 as the type to load, wherever the configuration names one."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
