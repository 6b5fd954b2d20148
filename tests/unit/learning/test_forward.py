"""Training embeds samples as inference does."""

from __future__ import annotations

import pytest
import torch

from tests.support.versions import skip_before_pinned
from twigkit import TwigModel
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.learning.batch import Batch, Turn
from twigkit.learning.forward import embed_batch, run_base
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


EVERY = [
    (entry.name, variant)
    for entry in default_registry().entries("adapter")
    for variant in entry.cls().variants()
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "variant"), EVERY)
def test_a_prompt_has_the_states_that_it_has_at_inference_whatever_the_answer_is(name, variant):
    """Also where the prompt is one block whose tokens see each other both ways."""
    adapter = default_registry().get("adapter", name).cls()
    family = adapter.variants()[variant]()
    stack = TwigModel(spread_weights(family.model)).stack
    media = ("image",) if "image" in adapter.capabilities else ()
    inputs = family.inputs([TinyRow(media, 9, 1), TinyRow((), 6, 2)])
    ids, states = inputs["input_ids"], []
    stop = ids.shape[1]
    turns = [[Turn(stop - 6, stop - 5, stop)]] * 2
    for answer in (ids[:, -3:], ids[:, -3:].flip(0)):
        inputs["input_ids"] = torch.cat((ids[:, :-3], answer), 1)
        prompt = embed_batch(stack, Batch(inputs, ids, turns, ["a", "b"]))
        states.append(run_base(stack, prompt, 0, stack.depth)[0].hidden)
    alone = {
        key: value[:, :-5] if value.shape == ids.shape else value for key, value in inputs.items()
    }
    prompt = stack.embed_prompt(**alone)
    wanted = run_base(stack, prompt, 0, stack.depth)[0].hidden[prompt.valid]
    for found in states:
        torch.testing.assert_close(found[:, :-5][prompt.valid], wanted, rtol=0, atol=2e-5)
    assert not torch.equal(states[0][:, -1], states[1][:, -1])
