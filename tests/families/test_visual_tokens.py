"""Newline tokens of LLaVA-NeXT and class tokens of Video-LLaVA are no visual tokens."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from twigkit import TwigModel, TwigSpec
from twigkit.adapters.llava_next import IMAGE, LlavaNextAdapter
from twigkit.adapters.video_llava import FRAMES, TOKENS, VIDEO, VideoLlavaAdapter
from twigkit.families.resolve import find_adapter
from twigkit.families.sizing import all_presets, on_meta
from twigkit.interfaces.tiny_models import TinyRow, spread_weights


def built(adapter):
    tiny = adapter.tiny()
    spread_weights(tiny.model, seed=0)
    return TwigModel(tiny.model), tiny


@pytest.fixture(scope="module")
def next_family():
    return built(LlavaNextAdapter())


@pytest.fixture(scope="module")
def video_family():
    return built(VideoLlavaAdapter())


@torch.inference_mode()
@pytest.mark.parametrize("seed", range(8))
def test_newlines_are_where_the_models_newline_lies(next_family, seed):
    model, tiny = next_family
    rows = [
        TinyRow(("image",), 4, seed),
        TinyRow(("image", "image"), 2, seed + 8),
        TinyRow((), 3, 1),
    ]
    inputs = tiny.inputs(rows)
    prompt = model.stack.embed_prompt(**inputs)
    newline = (prompt.hidden == model.base.model.image_newline).all(-1)
    placeholder = inputs["input_ids"] == IMAGE
    assert torch.equal(prompt.placeholder, placeholder)
    assert newline.sum(1).tolist()[2] == 0
    assert newline[:2].any(1).all()
    assert torch.equal(prompt.visual, placeholder & ~newline)
    alone = model.stack.embed_prompt(**tiny.inputs(rows[1:2]))
    assert alone.visual_counts == [prompt.visual_counts[1]]


@torch.inference_mode()
def test_class_tokens_are_the_towers_first(video_family):
    model, tiny = video_family
    rows = [TinyRow(("video", "image"), 3, 5), TinyRow(("video",), 9, 6)]
    inputs = tiny.inputs(rows)
    prompt = model.stack.embed_prompt(**inputs)
    inner, videos = model.base.model, inputs["pixel_values_videos"].flatten(0, 1)
    layer = model.base.config.vision_feature_layer
    states = inner.video_tower(videos, output_hidden_states=True).hidden_states[layer]
    first = inner.multi_modal_projector(states[:, 0])
    tokens = prompt.hidden[prompt.placeholder & ~prompt.visual]
    assert len(tokens) == 2 * FRAMES
    torch.testing.assert_close(tokens, first)
    video = inputs["input_ids"] == VIDEO
    assert (prompt.visual & video).sum(1).tolist() == [FRAMES * TOKENS] * 2
    assert prompt.visual_counts == [FRAMES * TOKENS + TOKENS, FRAMES * TOKENS]


@pytest.mark.parametrize(("fixture", "per_text"), [("next_family", 4), ("video_family", 4)])
@torch.inference_mode()
def test_they_are_never_dropped_and_in_no_budget(request, fixture, per_text):
    model, tiny = request.getfixturevalue(fixture)
    spread_weights(model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)), seed=1)
    medium = "image" if fixture == "next_family" else "video"
    inputs = tiny.inputs([TinyRow((medium,), per_text, 1)])
    prompt = model.stack.embed_prompt(**inputs)
    other = int((prompt.placeholder & ~prompt.visual).sum())
    assert other > 0
    output = model.generate(
        **inputs, budget=0.5, wipe_layer=6, max_new_tokens=2, return_dict_in_generate=True
    )
    count = prompt.visual_counts[0]
    assert output.stats.visual_tokens == [count]
    assert output.stats.kept_tokens == {2: [-(-(8 * count // 2 - 2 * count) // 4)], 6: [0]}
    wiped = output.kept[-1]
    left = wiped.positions[wiped.alive]
    assert len(left) == prompt.lengths[0] - count
    assert int(prompt.placeholder[0, left].sum()) == other


def test_text_rows_of_the_score_are_of_text_alone(next_family):
    """Eq. 3 sums over text tokens: newlines are none."""
    from twigkit.backbone.probes import row_probe

    model, tiny = next_family
    with torch.inference_mode():
        prompt = model.stack.embed_prompt(**tiny.inputs([TinyRow(("image",), 4, 1)]))
    probe, weight = row_probe(prompt, "text", None)
    chosen = probe.rows[0][weight[0] > 0]
    assert not prompt.placeholder[0, chosen].any()
    assert len(chosen) == int((prompt.valid & ~prompt.placeholder).sum())


SIZES = {
    # height and width of a picture: tokens of the paper's budgets, newlines
    (672, 672): (2880, 48),
    (1008, 336): (2304, 72),
    (336, 1008): (2304, 24),
    (480, 640): (576 + 36 * 48, 36),  # two by two tiles of 24 rows, less 6 of padding at each end
    (640, 480): (576 + 48 * 36, 48),
}


@pytest.mark.parametrize(("size", "wanted"), SIZES.items())
def test_the_published_models_counts(size, wanted):
    preset = all_presets()["llava-next-vicuna-7b"][0]
    config = AutoConfig.for_model(**preset.config)
    adapter = find_adapter(config.to_dict())
    stack = adapter.stack(on_meta(adapter, config))
    count, newlines = wanted
    ids = torch.tensor([[1, *[32000] * (count + newlines), 5]])
    visual = stack.visual_positions(ids, {"image_sizes": torch.tensor([size])})
    assert int(visual.sum()) == count
    assert bool(visual[0, 1:577].all())  # the overview has no newlines
    assert not visual[0, -2]  # the last row ends with one
    # what does not fit is left to the model, which refuses it
    short = stack.visual_positions(ids[:, 1:], {"image_sizes": torch.tensor([size, size])})
    assert int(short.sum()) == count + newlines
