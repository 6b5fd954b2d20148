"""Questions in a batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from twigkit.errors import InputError
from twigkit.evaluation.inputs import prepare_batch
from twigkit.io.processors import load_processor, prepare


@pytest.fixture(scope="module")
def processor(folders):
    return load_processor(folders.base)


def test_a_row_of_a_batch_is_the_prompt_alone(processor):
    pictures = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    prompts = ["what is it ?", "what color is the circle at the top ?"]
    inputs = prepare_batch(processor, prompts, [[p] for p in pictures])
    for row, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True)):
        alone = prepare(processor, prompt, [picture])
        valid = inputs["attention_mask"][row].bool()
        assert torch.equal(inputs["input_ids"][row][valid], alone["input_ids"][0])
        assert torch.equal(inputs["pixel_values"][row], alone["pixel_values"][0])
        assert bool(valid[-1]), "padding is on the left"


def test_a_base_without_videos_is_shown_the_frames(processor):
    video = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    inputs = prepare_batch(processor, ["what is it ?"], [[]], [video])
    assert len(inputs["pixel_values"]) == 2
    pictures = [Image.fromarray(frame) for frame in video]
    alone = prepare(processor, "what is it ?", pictures)
    assert torch.equal(inputs["input_ids"], alone["input_ids"])


def test_an_empty_prompt_is_refused(processor):
    with pytest.raises(InputError, match="a prompt of the task is empty"):
        prepare_batch(processor, [" "], [[]])
