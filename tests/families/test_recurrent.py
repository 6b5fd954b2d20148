"""Bases with recurrent layers are decoded plainly, pruned or not; drafting is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.support.asked import Listening
from tests.support.family_reference import additive
from twigkit import CapabilityError, FamilyWarning, TwigModel, TwigSpec
from twigkit.inflight.engine import Engine
from twigkit.inflight.request import InflightRequest
from twigkit.interfaces.tiny_models import spread_weights
from twigkit.specs.run import GenerationSpec

TEXT = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
LINEAR = TEXT | {
    "head_dim": 16,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": ROPE | {"mrope_section": [2, 1, 1], "mrope_interleaved": True},
}
EXPERTS = LINEAR | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
CONV = TEXT | {
    "layer_types": ["conv", "full_attention", "conv"] * 2,
    "conv_L_cache": 3,
    "block_auto_adjust_ff_dim": False,
}
SPARSE = CONV | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "num_dense_layers": 2,
}
QWEN_EYE = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "num_position_embeddings": 64,
}
LFM_EYE = {
    "model_type": "siglip2_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_patches": 16,
    "patch_size": 4,
}


def made(kind, **settings):
    config = AutoConfig.for_model(kind, **settings)
    pictures = "text_config" in settings
    auto = AutoModelForImageTextToText if pictures else AutoModelForCausalLM
    base = spread_weights(auto.from_config(config))
    with pytest.warns(FamilyWarning, match="the generic one"):
        return TwigModel(base)


def prompt(tokens, **values):
    ids = torch.tensor([[1, 5, 6, *[99] * tokens, 7, 8, 9]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **values}


def qwen(text=LINEAR, kind="qwen3_5"):
    ids = {"image_token_id": 99, "video_token_id": 98}
    ids |= {"vision_start_token_id": 97, "vision_end_token_id": 96}
    patches = torch.randn(32, 96, generator=torch.Generator().manual_seed(0))
    inputs = prompt(8, pixel_values=patches, image_grid_thw=torch.tensor([[1, 4, 8]]))
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == 99).int()
    return made(kind, text_config=text, vision_config=QWEN_EYE, **ids), inputs


def qwen_moe():
    return qwen(EXPERTS, "qwen3_5_moe")


def lfm():
    eye = {"projector_hidden_size": 32, "downsample_factor": 2, "image_token_id": 99}
    patches = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(0))
    sizes = {"spatial_shapes": torch.tensor([[4, 4]])}
    sizes["pixel_attention_mask"] = torch.ones(1, 16, dtype=torch.long)
    inputs = prompt(4, pixel_values=patches, **sizes)
    text = {"model_type": "lfm2", **CONV}
    return made("lfm2_vl", text_config=text, vision_config=LFM_EYE, **eye), inputs


@pytest.fixture(scope="module", params=[qwen, qwen_moe, lfm])
def family(request):
    return request.param()


def test_plain_decoding_gives_the_base_s_tokens(family):
    model, inputs = family
    own = model.base.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=12), own)
    whole = model.generate(**inputs, max_new_tokens=12, budget=1.0, pruner="random")
    assert torch.equal(whole, own)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("qwen3_5_text", LINEAR), ("lfm2", CONV), ("lfm2_moe", SPARSE), ("qwen3_next", EXPERTS)],
)
def test_rows_of_a_batch_do_not_mix(kind, text):
    if kind == "qwen3_next":
        text = text | {"rope_parameters": ROPE}
    model = made(kind, **text)
    ids = torch.randint(5, 90, (3, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, :2] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    free = model.base.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=None)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": int(free[0, 12])}
    own = model.base.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options), own)  # rows leave the batch on the way
    drawn = [model.generate(**inputs, max_new_tokens=5, do_sample=True, seed=3) for _ in range(2)]
    assert torch.equal(*drawn)


def test_rows_of_a_running_batch_do_not_mix(family):
    model, inputs = family
    plain, ngram = (GenerationSpec(drafter=name).drafter for name in ("plain", "ngram"))
    settings = [{"max_new_tokens": most, "eos_token_id": None} for most in (9, 4, 12, 9, 5)]
    asked = [InflightRequest(inputs, plain, each) for each in settings]
    free = model.generate(**inputs, **settings[2])[0, inputs["input_ids"].shape[1] :].tolist()
    with Engine(model, rows=3, queue=9) as engine:
        heard = [Listening.to(engine, each) for each in asked]
        answers = [each.answer() for each in heard]
        assert answers == [free[: each["max_new_tokens"]] for each in settings]
        with pytest.raises(CapabilityError, match="cannot be rolled back"):
            Listening.to(engine, replace(asked[0], drafter=ngram)).wait()


@pytest.mark.parametrize("pruner", ["random", "fastv"])
@torch.inference_mode()
def test_pruned_answers_are_those_of_layers_without_a_cache(family, pruner):
    model, inputs = family
    attends = next(n for n in range(1, 6) if n not in model.stack.recurrent)
    if pruner == "fastv":
        pruner = {"kind": "fastv", "layer": attends + 1}
    options = {"budget": 0.5, "max_new_tokens": 6, "return_dict_in_generate": True}
    generator = torch.Generator().manual_seed(5)
    output = model.generate(**inputs, pruner=pruner, generator=generator, **options)
    assert output.stats.kept_tokens
    kept = {each.stage.layer: each.positions[0] for each in output.kept}
    prompt = model.stack.embed_prompt(**inputs)
    tokens: list[int] = []
    for _ in range(6):
        tokens.append(int(_logits(model.stack, prompt, kept, tokens).argmax()))
    assert output.sequences[0, inputs["input_ids"].shape[1] :].tolist() == tokens


def _logits(stack, prompt, kept, tokens):
    """Run prompt and answer through the base's layers, tokens taken out on the way."""
    width, count = prompt.hidden.shape[1], len(tokens)
    more = torch.arange(count)
    hidden = prompt.hidden
    if count:
        hidden = torch.cat((hidden, stack.embed_tokens(torch.tensor([tokens]))), 1)
    rope = torch.cat((prompt.rope, (prompt.next_rope + more).expand(stack.channels, 1, -1)), 2)
    places = torch.arange(width + count)
    for number, layer in enumerate(stack.text.layers):
        if number in kept:
            stays = torch.cat((kept[number], width + more))
            hidden = hidden[:, torch.isin(places, stays)]
            rope = rope[:, :, torch.isin(places, stays)]
            places = stays
        size = len(places)
        mask = additive(torch.ones(1, 1, size, size, dtype=torch.bool).tril())
        hidden = layer(
            hidden,
            attention_mask=None if number in stack.recurrent else mask,
            position_embeddings=stack.rope(hidden, rope)["default"],
        )
    return stack.head(stack.norm(hidden[:, -1]))


def test_the_attention_of_a_recurrent_layer_is_asked_for_in_vain(family):
    model, inputs = family
    assert 0 in model.stack.recurrent
    with pytest.raises(CapabilityError, match=r"layer 0 \(counted from 0\), which is recurrent"):
        model.generate(**inputs, pruner={"kind": "fastv", "layer": 1}, budget=0.5)


@pytest.mark.parametrize("drafter", ["ssd", "prompt-lookup", "ngram", "auto"])
def test_what_is_drafted_cannot_be_rolled_back(family, drafter):
    model, inputs = family
    with pytest.raises(CapabilityError, match=f"'{drafter}' cannot be used: 4 of the 6 layers"):
        model.generate(**inputs, drafter=drafter, max_new_tokens=2)


def test_no_twig_is_grown(family):
    with pytest.raises(CapabilityError, match="so no twig is grown on it"):
        family[0].grow(TwigSpec(base="tiny", exit_layer=2, depth=1))


def test_states_count_among_the_bytes_and_keys_only_where_there_are_any(family):
    model, inputs = family
    stats = model.generate(**inputs, max_new_tokens=2).stats
    tokens = inputs["input_ids"].shape[1]
    attending = model.stack.depth - len(model.stack.recurrent)
    keys = attending * tokens * 2 * 2 * 16 * 4  # keys and values, two heads of 16 float32 each
    states = stats.kv_bytes_prompt - keys
    conv = 64 * 3 * 4  # channels, width of the convolution, float32
    linear = 128 * 4 * 4 + 4 * 16 * 16 * 4  # the same, and a matrix for each head
    kind = model.base.config.model_type
    assert states == len(model.stack.recurrent) * (conv if kind == "lfm2_vl" else linear)
