"""The best visual tokens stay, in prompt order; text and the last token always do."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import VISUAL, llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.generation.visual_choice import ends_visual, keep_indices, with_last

ROWS = [(3, 1, 5), (6, 3, 2), (1, 0, 9)]


@pytest.fixture(scope="module")
def model():
    return TwigModel(tiny_llava())


@torch.inference_mode()
def test_the_best_stay_in_order_and_text_is_never_dropped(model):
    prompt = model.stack.embed_prompt(**llava_inputs(ROWS))
    scores = torch.rand(prompt.visual.shape)
    keep = [5, 20, 3]
    order, alive, lengths = keep_indices(scores, prompt, keep)
    for row, count in enumerate(keep):
        visual = prompt.visual[row].nonzero()[:, 0].tolist()
        best = sorted(visual, key=lambda place: -float(scores[row, place]))[:count]
        text = (prompt.valid[row] & ~prompt.visual[row]).nonzero()[:, 0].tolist()
        assert order[row][alive[row]].tolist() == sorted(best + text)
        assert lengths[row] == len(best) + len(text)
        assert not alive[row, : order.shape[1] - lengths[row]].any()


@torch.inference_mode()
def test_equal_scores_keep_the_first(model):
    prompt = model.stack.embed_prompt(**llava_inputs(ROWS[:1]))
    order, _, _ = keep_indices(torch.zeros(prompt.visual.shape), prompt, [4])
    assert order[0][prompt.visual[0][order[0]]].tolist() == [4, 5, 6, 7]


@torch.inference_mode()
def test_a_last_token_of_a_picture_counts_and_stays(model):
    inputs = llava_inputs([(2, 1, 0)])
    whole = model.stack.embed_prompt(**inputs)
    assert ends_visual(whole) == [False]
    cut = {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")}
    prompt = model.stack.embed_prompt(**{**inputs, **cut})
    assert ends_visual(prompt) == [True]
    counts = with_last([0], ends_visual(prompt))
    order, _, lengths = keep_indices(torch.zeros(prompt.visual.shape), prompt, counts)
    assert counts == [1]
    assert order[0, -1] == prompt.lengths[0] - 1
    assert lengths == [prompt.lengths[0] - VISUAL + 1]
