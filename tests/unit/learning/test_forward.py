"""Training embeds samples as inference does."""

from __future__ import annotations

import pytest
import torch

from tests.support.versions import skip_before_pinned
from twigkit import TwigModel
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.learning.batch import Batch
from twigkit.learning.forward import embed_batch
from twigkit.plugins.discovery import default_registry

STEPS, SECONDS = 40, 0.97
"""Time steps of a video, and the seconds of each, which half precision would round."""


def long_video(family):
    """A prompt about a video of many steps, in the family's own tiny sizes."""
    inputs = family.inputs([TinyRow(("video",), 3, 2)])
    ids, pixels = inputs["input_ids"][0], inputs["pixel_values_videos"]
    (video,) = (family.model.config.video_token_id,)
    first = int((ids == video).int().argmax())
    tokens = STEPS * 4  # 4 x 4 patches are 2 x 2 tokens
    after = first + int((ids == video).sum())
    ids = torch.cat((ids[:first], ids.new_full((tokens,), video), ids[after:]))[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == video).int(),
        "pixel_values_videos": torch.randn(STEPS * 16, pixels.shape[1]),
        "video_grid_thw": torch.tensor([[STEPS, 4, 4]]),
        "second_per_grid_ts": torch.tensor([SECONDS]),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_video_has_the_positions_that_it_has_at_inference(dtype, monkeypatch):
    skip_before_pinned("spaces the frames of a video without regard to their seconds")
    family = default_registry().get("adapter", "qwen2_vl").cls().tiny()
    model = TwigModel(spread_weights(family.model).to(dtype))
    inputs, seen = long_video(family), []
    look = model.stack.embed_prompt
    monkeypatch.setattr(
        model.stack, "embed_prompt", lambda **given: seen.append(look(**given)) or seen[-1]
    )
    model.generate(**inputs, max_new_tokens=1)
    ids = inputs["input_ids"]
    embed_batch(model.stack, Batch(inputs, ids, [[]], ["video"]))
    at_inference, in_training = seen
    assert torch.equal(in_training.rope, at_inference.rope)
    assert torch.equal(in_training.hidden, at_inference.hidden)
    assert int(at_inference.rope[0].max()) > 4 * SECONDS * (STEPS - 1)  # 4 positions a second
