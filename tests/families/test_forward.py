"""The layers run one by one give what the model's own forward gives, for every family."""

from __future__ import annotations

import pytest
import torch

from twigkit import TwigModel
from twigkit.backbone.masks import prompt_masks
from twigkit.plugins.discovery import default_registry

TOLERANCE = 2e-5


def split_forward(stack, inputs):
    """Logits of all positions, the layers run in three ranges."""
    prompt = stack.embed_prompt(**inputs)
    rope = stack.rope(prompt.hidden, prompt.rope)
    masks = prompt_masks(prompt, stack.windows(0, stack.depth))
    hidden = prompt.hidden
    for first, last in ((0, 2), (2, 3), (3, stack.depth)):
        hidden = stack.run(hidden, first, last, rope=rope, masks=masks, inject=prompt.inject)
    return stack.head(stack.norm(hidden)), prompt


@torch.inference_mode()
def test_split_forward_equals_the_models_own(family):
    for name, inputs in family.prompts().items():
        logits, prompt = split_forward(family.model.stack, inputs)
        own = family.base(**inputs).logits
        worst = (logits - own)[prompt.valid].abs().max().item()
        assert worst < TOLERANCE, f"{name}: logits differ by {worst:.1e}"
        assert own.abs().max() > 1, "logits so small would hide a difference"


@torch.inference_mode()
def test_the_prompt_knows_its_visual_tokens(family):
    for name, inputs in family.prompts().items():
        prompt = family.model.stack.embed_prompt(**inputs)
        assert prompt.lengths == inputs["attention_mask"].sum(1).tolist()
        assert prompt.visual.sum(1).tolist() == prompt.visual_counts
        assert any(prompt.visual_counts) == (name in family.visual_prompts())


@torch.inference_mode()
def test_visual_tokens_are_where_the_pictures_states_lie(family):
    """Other pixels change the states of visual positions, and of no other."""
    for inputs in family.visual_prompts().values():
        other = {
            name: -0.5 * value if name.startswith("pixel_values") else value
            for name, value in inputs.items()
        }
        prompt = family.model.stack.embed_prompt(**inputs)
        changed = (family.model.stack.embed_prompt(**other).hidden != prompt.hidden).any(-1)
        assert not (changed & ~prompt.placeholder).any()
        assert changed[prompt.visual].all()
        assert not (prompt.visual & ~prompt.placeholder).any()


@torch.inference_mode()
def test_the_base_is_left_alone(family):
    """A prompt leaves no offset of positions behind, which a generation under way would read."""
    keepers = [module for module in family.base.modules() if hasattr(module, "rope_deltas")]
    for inputs in family.prompts().values():
        marks = [torch.tensor([[17]]) for _ in keepers]
        for module, mark in zip(keepers, marks, strict=True):
            module.rope_deltas = mark
        family.model.stack.embed_prompt(**inputs)
        assert all(m.rope_deltas is mark for m, mark in zip(keepers, marks, strict=True))
    for module in keepers:
        module.rope_deltas = None


def test_a_family_loads_from_its_files(family, tmp_path):
    family.base.save_pretrained(tmp_path)
    model = TwigModel.from_pretrained(tmp_path, dtype="float32")
    inputs = next(iter(family.prompts().values()))
    own = family.base.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4), own)


def test_capabilities_are_true(family):
    """What can be read from the layers is what the adapter declares."""
    stack = family.model.stack
    windows = stack.windows(0, stack.depth)
    keys = {stack.rope_key(layer) for layer in range(stack.depth)}
    seen = {
        "m-rope": stack.channels > 1,
        "layered-rope": len(keys) > 1,
        "pruning": bool(stack.visual_ids),
    }
    for name, found in seen.items():
        assert found == (name in family.capabilities), name
    if windows != {None}:
        assert "sliding-window" in family.capabilities
    prompts = family.visual_prompts().values()
    prompt = [stack.embed_prompt(**inputs) for inputs in prompts]
    assert any(p.inject for p in prompt) == ("deepstack" in family.capabilities)
    blocks = any(p.blocks is not None for p in prompt)
    assert blocks == ("bidirectional-image" in family.capabilities)


@pytest.mark.parametrize("capability", ["sliding-window", "dynamic-resolution"])
def test_a_declared_capability_is_seen_in_some_variant(capability):
    from tests.families.conftest import BUILT_IN, TinyRow

    for entry in BUILT_IN:
        adapter = entry.cls()
        if capability not in adapter.capabilities:
            continue
        found = set()
        for make in adapter.variants().values():
            tiny = make()
            if capability == "sliding-window":
                stack = adapter.stack(tiny.model)
                found |= stack.windows(0, stack.depth) - {None}
            else:
                ids = set(adapter.stack(tiny.model).visual_ids)
                for seed in range(6):
                    row = tiny.inputs([TinyRow(("image",), 1, seed)])["input_ids"][0].tolist()
                    found.add(sum(token in ids for token in row))
                found = found if len(found) > 1 else set()
        assert found, f"{entry.name} declares {capability!r} but no tiny model of it shows it"


@pytest.mark.parametrize("place", ["meta", torch.bfloat16], ids=["elsewhere", "another precision"])
def test_tiny_prompts_are_on_the_host_wherever_the_tiny_model_is(place):
    from tests.families.conftest import VARIANTS, TinyRow

    firsts = dict(reversed(VARIANTS))
    for name, variant in firsts.items():
        adapter = default_registry().get("adapter", name).cls()
        tiny = adapter.variants()[variant]()
        row = TinyRow(("image",) if "image" in adapter.capabilities else (), words=2, seed=1)
        want = tiny.inputs([row])
        tiny.model.to(place)
        for key, value in tiny.inputs([row]).items():
            assert torch.equal(value, want[key]), (name, key)
