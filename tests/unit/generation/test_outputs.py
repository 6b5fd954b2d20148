"""Scores and logits of emitted tokens equal those of the base's own ``generate``."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from tests.support.versions import skip_before_pinned
from twigkit import TwigModel, TwigSpec

ONE = llava_inputs([(3, 1, 5)])
BATCH = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
DRAFTERS = ["plain", {"kind": "ssd", "threshold": 0.0}, {"kind": "tree-ssd", "threshold": 0.0}]
WANTED = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava())
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=6)).eval()
    return made


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}, {"suppress_tokens": [7, 16]}],
    ids=str,
)
def test_they_equal_those_of_the_base(model, drafter, settings):
    if "repetition_penalty" in settings:
        skip_before_pinned("penalises the padding of a batch")
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, **settings, **WANTED}
    own = model.base.generate(**BATCH, **options)
    output = model.generate(**BATCH, **options, drafter=drafter)
    assert torch.equal(own.sequences, output.sequences)
    for mine, theirs in ((output.scores, own.scores), (output.logits, own.logits)):
        assert len(mine) == len(theirs) == 9
        for ours, reference in zip(mine, theirs, strict=True):
            torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)
            assert not ours.is_inference()


def test_what_they_say_of_a_text_is_computed_as_by_the_base(model):
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, **WANTED}
    own, output = model.base.generate(**ONE, **options), model.generate(**ONE, **options)
    expected = model.base.compute_transition_scores(own.sequences, own.scores)
    got = model.compute_transition_scores(output.sequences, output.scores)
    torch.testing.assert_close(got, expected)


def test_rows_that_have_stopped_hold_zeros(model):
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None}
    answer = model.generate(**BATCH, **options)
    end = int(answer[0, -6])
    output = model.generate(**BATCH, **{**options, "eos_token_id": end, "drafter": "ssd"}, **WANTED)
    lengths = output.stats.new_tokens
    assert lengths[0] < max(lengths)
    assert len(output.logits) == max(lengths)
    assert not output.logits[-1][0].any()
    assert all(step[0].any() for step in output.logits[: lengths[0]])


@pytest.mark.parametrize("drafter", [*DRAFTERS[1:], {"kind": "ssd", "draws": True}], ids=str)
def test_drawn_tokens_come_with_the_scores_of_plain_decoding(model, drafter):
    options = {"max_new_tokens": 8, "do_sample": True, "top_k": 4, "seed": 3, **WANTED}
    output = model.generate(**ONE, **options, drafter=drafter)
    mask = torch.ones_like(output.sequences)
    logits = model.base(
        input_ids=output.sequences, attention_mask=mask, pixel_values=ONE["pixel_values"]
    ).logits[0, ONE["input_ids"].shape[1] - 1 : -1]
    for place, token in enumerate(output.sequences[0, ONE["input_ids"].shape[1] :].tolist()):
        torch.testing.assert_close(output.logits[place][0], logits[place], atol=1e-4, rtol=1e-4)
        possible = output.scores[place][0].isfinite()
        assert possible.sum() == 4
        assert possible[token]
        best = logits[place].topk(4).indices
        assert possible[best].all()


def test_without_a_dictionary_there_is_no_room_for_them(model):
    output = model.generate(**ONE, max_new_tokens=2, output_scores=True)
    assert isinstance(output, torch.Tensor)


def test_what_is_returned_can_be_edited_and_trained_on(model):
    output = model.generate(**ONE, max_new_tokens=6)
    assert not output.is_inference()
    output[output == 0] = -100
    pruned = model.generate(**ONE, max_new_tokens=6, budget=0.5, return_dict_in_generate=True)
    tensors = [pruned.sequences, *(kept.positions for kept in pruned.kept)]
    assert not any(tensor.is_inference() for tensor in tensors)
    model.base.requires_grad_(True)
    try:
        labels = pruned.sequences
        loss = model.base(input_ids=labels, pixel_values=ONE["pixel_values"], labels=labels).loss
        loss.backward()
    finally:
        model.base.requires_grad_(False).zero_grad()
    assert loss.isfinite()


@pytest.mark.parametrize("drafter", ["plain", "ssd"])
def test_several_answers_per_prompt_are_drawn_by_seeds_of_their_own(model, drafter):
    options = {"max_new_tokens": 7, "do_sample": True, "drafter": drafter}
    together = model.generate(**BATCH, **options, num_return_sequences=2, seed=5)
    assert together.shape[0] == 6
    rows = {name: value.repeat_interleave(2, 0) for name, value in BATCH.items()}
    order = [0, 0, 1, 2, 1, 2]  # pictures, by prompt
    rows["pixel_values"] = BATCH["pixel_values"][order]
    assert torch.equal(together, model.generate(**rows, **options, seed=5))
    assert not torch.equal(together[0], together[1])
