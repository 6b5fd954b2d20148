"""Memory of inference, from a shape alone."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from twigkit.families.inference_memory import inference_memory, step_bytes
from twigkit.families.resolve import find_adapter
from twigkit.families.sizing import all_presets, measure, on_meta, preset_shape


@pytest.mark.parametrize("name", ["llava-1.5-7b", "qwen2.5-vl-7b", "paligemma2-3b"])
def test_all_weights_are_counted_from_one_layer(name):
    preset = all_presets()[name][0]
    config = AutoConfig.for_model(**preset.config)
    whole = on_meta(find_adapter(config.to_dict()), config)
    found = measure(preset.base, config, exit_layer=2, depth=3)
    assert found.base_parameters == sum(p.numel() for p in whole.parameters())


def test_the_7b_fits_what_it_takes():
    shape = preset_shape(all_presets()["llava-1.5-7b"][0])
    found = inference_memory(shape)
    assert found["weights of the base"] == pytest.approx(14.13e9, rel=0.01)
    assert found["KV, 636 prompt and 256 new tokens"] == 892 * 524288
    pruned = found["KV, the same pruned to 64 visual tokens per layer"]
    assert pruned == pytest.approx((64 + 60 + 256) * 524288, rel=0.02)
    assert found["KV slots of a step"] == 61 * (524288 + 3 * 16384)
    states = 2 * (7 * 4096 + 3 * 11008)
    assert found["captured prefill of the prompt"] == 636 * (524288 + 3 * 16384 + states)


def test_a_step_grows_with_its_nodes():
    shape = preset_shape(all_presets()["llava-1.5-7b"][0])
    assert step_bytes(shape, 2) == 2 * step_bytes(shape, 1)
    assert step_bytes(shape, 1) == 2 * (4 * 4096 + 3 * 4096 + 3 * 11008) + 6 * 32064
