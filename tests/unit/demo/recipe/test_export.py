"""The exported base loads like any other checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tests.support.demo import small_base
from twigkit.demo.recipe.build import EOS
from twigkit.demo.recipe.export import export_base
from twigkit.demo.world import draw, sample_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small_base()
    target = tmp_path_factory.mktemp("export") / "base"
    export_base(model, target, "# card\n")
    export_base(model, target, "# card again\n")
    return target


def test_export_loads_with_auto_classes_alone(folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(model, LlavaForConditionalGeneration)
    assert model.dtype == torch.float32
    assert isinstance(processor, LlavaProcessor)
    inputs = processor(
        images=[draw(sample_scene(s)) for s in (1, 2)],
        text=[
            "USER: <image>\nread the word . ASSISTANT:",
            "USER: <image>\nwhat is there ? ASSISTANT:",
        ],
        padding=True,
        return_tensors="pt",
    )
    assert model.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3
    assert model.generation_config.eos_token_id == EOS
    assert (folder / "README.md").read_text() == "# card again\n"
    assert sorted(p.name for p in folder.parent.iterdir()) == ["base"]
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
