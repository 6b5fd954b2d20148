"""Folders and names that hold an adapter, or do not."""

import json

import pytest

from twigkit.errors import CheckpointError
from twigkit.families.adapted import adapter_base


@pytest.mark.parametrize("name", ["nobody/nothing", "x" * 5000, "a b"])
def test_a_name_that_nothing_is_found_under_holds_no_adapter(name, monkeypatch):
    monkeypatch.setattr("twigkit.io.hub.reaches_hub", lambda name, *given, **options: False)
    assert adapter_base(name) is None


def test_the_base_of_an_adapter_is_read(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "org/base", "peft_type": "LORA"})
    )
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors"):
        adapter_base(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    assert adapter_base(tmp_path) == "org/base"
    (tmp_path / "config.json").write_text("{}")  # a whole model, with an adapter beside it
    assert adapter_base(tmp_path) is None
