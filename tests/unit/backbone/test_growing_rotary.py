"""Positions as the configuration says: every token has the rotary table that the base gives it."""

from __future__ import annotations

import functools
import inspect

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.interfaces.tiny_models import pad_left, spread_weights, tiny_text_config

BEFORE = 32
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": BEFORE,
}
ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": BEFORE},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": LONG,
    "restart": LONG,  # and the base passes everything anew there
}
GROWING = ["dynamic", "longrope", "restart"]
PROMPTS = {"before": [20], "past": [40], "batch before": [20, 27], "batch across": [20, 40]}
NEW = 24
DRAFTERS = {
    "plain": "plain",
    "ssd": {"kind": "ssd", "threshold": 0.0},
    "tree": {"kind": "tree-ssd", "threshold": 0.0},
}


def begins_anew() -> bool:
    """Say whether this transformers passes all tokens at the switch, as it means to.

    Some versions pass only the last token there, without those before it.
    """
    method = inspect.unwrap(Phi3ForCausalLM.prepare_inputs_for_generation)
    return "next_sequence_length" in method.__code__.co_consts


def base_of(rope: str) -> PreTrainedModel:
    named = 4 * BEFORE if ROPES[rope] is LONG else BEFORE
    settings = tiny_text_config(max_position_embeddings=named)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    scaled = {"rope_theta": 1e4, **ROPES[rope]}
    if rope == "restart":
        if not begins_anew():
            pytest.skip("this transformers forgets the text at the switch")
        ids["original_max_position_embeddings"] = BEFORE
        base = Phi3ForCausalLM(Phi3Config(**settings, **ids, rope_parameters=scaled)).eval()
    else:
        base = LlamaForCausalLM(LlamaConfig(**settings, **ids, rope_parameters=scaled)).eval()
    spread_weights(base, 3)
    return base


def inputs_of(prompt: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 90, (count,), generator=generator) for count in PROMPTS[prompt]]
    return pad_left([row.tolist() for row in rows])


@functools.cache
def answer(rope: str, prompt: str) -> torch.Tensor:
    """What a base says that was asked nothing before."""
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
    return base_of(rope).generate(**inputs_of(prompt), **options)


@functools.cache
def model_of(rope: str) -> TwigModel:
    """A model whose twig is the base's remaining layers: its drafts are right."""
    model = TwigModel(base_of(rope))
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=6)).eval()
    return model


@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("rope", ROPES)
def test_every_token_is_the_bases(rope, prompt, drafter):
    options = {"max_new_tokens": NEW, "eos_token_id": None, "drafter": drafter}
    output = model_of(rope).generate(**inputs_of(prompt), **options)
    assert torch.equal(answer(rope, prompt), output)
    drafted = output.stats.accepted_length
    assert drafted == 1.0 if drafter == "plain" else drafted > 1.5


@pytest.mark.parametrize("rope", GROWING)
def test_the_switch_changes_the_tokens(rope):
    fixed = model_of("default").generate(
        **inputs_of("before"), max_new_tokens=NEW, eos_token_id=None
    )
    assert not torch.equal(answer(rope, "before"), fixed)


@pytest.mark.parametrize("rope", GROWING)
def test_tables_do_not_depend_on_what_was_asked_before(rope):
    base = base_of(rope)
    model = TwigModel(base)
    options = {"max_new_tokens": NEW, "eos_token_id": None}
    base.generate(**inputs_of("past"), **options, do_sample=False)
    left = base.model.rotary_emb.inv_freq.clone()
    for prompt in ("before", "past", "before"):
        found = model.generate(**inputs_of(prompt), **options)
        assert torch.equal(answer(rope, prompt), found)
    assert torch.equal(left, base.model.rotary_emb.inv_freq)


@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("prompt", ["before", "batch before"])
def test_logits_are_processed_across_a_restart(prompt, drafter):
    options = {"max_new_tokens": NEW, "eos_token_id": None, "repetition_penalty": 1.3}
    own = base_of("restart").generate(**inputs_of(prompt), **options, do_sample=False)
    found = model_of("restart").generate(**inputs_of(prompt), **options, drafter=drafter)
    assert torch.equal(own, found)


@pytest.mark.parametrize("prompt", ["before", "batch before"])
@torch.inference_mode()
def test_drawn_tokens_come_from_the_base_s_logits_across_a_restart(prompt):
    base, inputs = base_of("restart"), inputs_of(prompt)
    options = {"max_new_tokens": NEW, "eos_token_id": None, "do_sample": True, "seed": 5}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    outputs = [
        model_of("restart").generate(**inputs, **options, drafter=drafter)
        for drafter in DRAFTERS.values()
    ]
    whole = outputs[0].sequences
    assert all(torch.equal(whole, output.sequences) for output in outputs[1:])
    assert not torch.equal(whole, answer("restart", prompt))
    width = inputs["input_ids"].shape[1]
    for step in range(NEW):
        mask = nn.functional.pad(inputs["attention_mask"], (0, step), value=1)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        own = base(whole[:, : width + step], attention_mask=mask, position_ids=places).logits
        for output in outputs:
            assert torch.allclose(output.logits[step], own[:, -1], atol=1e-3), step


@pytest.mark.parametrize("drafter", DRAFTERS.values(), ids=DRAFTERS)
@pytest.mark.parametrize("rope", GROWING)
def test_rows_that_end_before_the_switch_leave_the_others_alone(rope, drafter):
    free = answer(rope, "batch before")
    options = {"max_new_tokens": NEW, "eos_token_id": int(free[1, 27 + 2]), "pad_token_id": 0}
    own = base_of(rope).generate(**inputs_of("batch before"), **options, do_sample=False)
    for bucketed in (False, True):
        found = model_of(rope).generate(
            **inputs_of("batch before"), **options, drafter=drafter, bucketed=bucketed
        )
        assert torch.equal(own, found)


@pytest.mark.parametrize("drafter", ["ssd", "tree-ssd"])
def test_a_pruned_prompt_is_drafted_for_across_the_switch(drafter):
    base = tiny_llava(context=BEFORE)
    text = base.config.text_config
    text.rope_parameters = {"rope_theta": 1e4, **ROPES["dynamic"]}
    base.model.language_model.rotary_emb = LlamaRotaryEmbedding(text)
    model = TwigModel(base)
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=6)).eval()
    inputs = llava_inputs([(3, 1, 5), (1, 1, 2)])
    options = {"max_new_tokens": NEW, "eos_token_id": None, "budget": 0.4}
    plain = model.generate(**inputs, **options, drafter="plain")
    found = model.generate(**inputs, **options, drafter={"kind": drafter, "threshold": 0.0})
    assert torch.equal(plain, found)
