"""Bases that begin anew: which do, and the prompt that then holds what was generated."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.adapters.qwen3_vl import Qwen3VlAdapter
from twigkit.errors import FamilyWarning
from twigkit.generation.restart import restart_length, warn_of_restart, with_answer
from twigkit.interfaces.tiny_models import TinyRow, spread_weights
from twigkit.testing.reference import extended

SAID = [5, 6, 7]


class Restarting(PreTrainedModel):
    """Compares the length with the field that says where the second rotary table begins."""

    config_class = LlamaConfig

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: object) -> dict:
        """Drop the cache at the switch."""
        switch = self.config.original_max_position_embeddings
        return {} if input_ids.shape[1] > switch else kwargs


class Whole(Restarting):
    """Passes the whole text then."""

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: object) -> dict:
        """Drop the cache at the switch, and what says that only the last token is passed."""
        if input_ids.shape[1] > self.config.original_max_position_embeddings:
            kwargs["next_sequence_length"] = None
        return kwargs


def test_a_base_that_compares_with_the_switch_begins_anew_after_it():
    config = LlamaConfig(original_max_position_embeddings=32)
    assert restart_length(Restarting(config)) == 33
    assert restart_length(Restarting(LlamaConfig())) is None, "the configuration names no switch"


def test_a_base_that_forgets_its_prompt_there_is_warned_of(recwarn):
    config = LlamaConfig(original_max_position_embeddings=32)
    with pytest.warns(FamilyWarning, match="forgets the prompt where Restarting"):
        warn_of_restart(Restarting(config))
    recwarn.clear()
    warn_of_restart(Whole(config))
    assert not recwarn


def test_other_bases_never_do():
    assert restart_length(tiny_llava(layers=2)) is None
    assert restart_length(nn.Linear(2, 2)) is None
    named = tiny_llava(layers=2)
    named.config.original_max_position_embeddings = 32  # which the base's own code never reads
    assert restart_length(named) is None


def assert_same_prompt(found, wanted):
    """Compare all fields but those that tell where padding lies or come from the old prompt."""
    for field in dataclasses.fields(wanted):
        if field.name in ("table", "inject"):
            continue
        ours, theirs = getattr(found, field.name), getattr(wanted, field.name)
        same = torch.equal(ours, theirs) if isinstance(theirs, Tensor) else ours == theirs
        assert same, field.name
    assert found.inject.keys() == wanted.inject.keys()
    for layer, states in wanted.inject.items():
        assert torch.equal(found.inject[layer], states)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_the_longer_prompt_is_what_the_base_makes_of_the_longer_text(family):
    if family == "llava":
        stack, inputs = TwigModel(tiny_llava(layers=2)).stack, llava_inputs([(3, 1, 4)])
        answers = {}
    else:  # three channels of rotary positions, and states added to the first layers
        tiny = Qwen3VlAdapter().tiny()
        spread_weights(tiny.model, 0)
        stack, inputs = TwigModel(tiny.model).stack, tiny.inputs([TinyRow(("image",), 4, 1)])
        answers = tiny.answers
    with torch.inference_mode():
        prompt = stack.embed_prompt(**inputs)
        embedded = stack.embed_tokens(torch.tensor([SAID]))
        found = with_answer(prompt, [0], [SAID], embedded)
        wanted = stack.embed_prompt(**extended(inputs, SAID, answers))
    assert found.ids.shape[1] == inputs["input_ids"].shape[1] + len(SAID)
    assert_same_prompt(found, wanted)
    assert found.table == int(prompt.next_rope.max()) + len(SAID) + 1


def test_rows_come_in_the_order_asked_for():
    stack = TwigModel(tiny_llava(layers=2)).stack
    prompt = stack.embed_prompt(**llava_inputs([(3, 1, 4), (2, 0, 5), (4, 0, 6)]))
    tails = [[7, 8], [9, 10]]
    found = with_answer(prompt, [2, 0], tails, stack.embed_tokens(torch.tensor(tails)))
    assert found.lengths == [13, 27]
    assert found.visual_counts == [0, 16]
    assert found.index[:, -1].tolist() == [12, 26]
    assert found.next_index.tolist() == found.next_rope.tolist() == [13, 27]
    assert found.ids[:, -2:].tolist() == tails
    assert not found.visual[:, -2:].any()
    assert found.valid[:, -2:].all()
