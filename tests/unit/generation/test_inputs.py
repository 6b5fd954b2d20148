"""Prompts are taken as the base takes them: masks inferred, padding anywhere, embeddings given."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import InputError, TwigModel, TwigSpec

BATCH = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
IDS, MASK = BATCH["input_ids"], BATCH["attention_mask"]
GREEDY = {"max_new_tokens": 8, "do_sample": False}
DRAFTERS = ["plain", {"kind": "tree-ssd", "threshold": 0.0}]


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava())
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=3)).eval()
    return made


def without_mask():
    return {name: value for name, value in BATCH.items() if name != "attention_mask"}


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
@pytest.mark.parametrize("given", [{}, {"pad_token_id": torch.tensor([0])}, {"eos_token_id": 0}])
def test_the_mask_is_inferred_as_the_base_infers_it(model, drafter, given):
    own = model.base.generate(**without_mask(), **GREEDY, **dict.fromkeys(given, 0))
    output = model.generate(**without_mask(), **GREEDY, **given, drafter=drafter)
    assert torch.equal(own, output)
    masked = model.base.generate(**BATCH, **GREEDY)
    assert torch.equal(own, masked) == ("eos_token_id" not in given)


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_padding_between_tokens_is_no_token(model, drafter):
    ids, mask = IDS.clone(), MASK.clone()
    ids[2, -6:-3], mask[2, -6:-3] = 0, 0
    spread = {**BATCH, "input_ids": ids, "attention_mask": mask}
    own = model.base.generate(**spread, **GREEDY)
    assert torch.equal(own, model.generate(**spread, **GREEDY, drafter=drafter))


@pytest.mark.parametrize("left", [0, 2], ids=["right", "both sides"])
def test_padding_on_the_right_is_moved_and_told(model, left):
    width = IDS.shape[1]
    ids, mask = torch.zeros(3, width + left, dtype=torch.long), torch.zeros(3, width + left)
    for row in range(3):
        real = IDS[row][MASK[row].bool()]
        start = 0 if row == 1 else left
        ids[row, start : start + len(real)], mask[row, start : start + len(real)] = real, 1
    inputs = {**BATCH, "input_ids": ids, "attention_mask": mask.long()}
    with pytest.warns(UserWarning, match="padded on the right"):
        output = model.generate(**inputs, **GREEDY)
    assert torch.equal(output[:, : width + left], ids)
    own = model.base.generate(**BATCH, **GREEDY)
    assert torch.equal(output[:, width + left :], own[:, width:])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attention_mask": torch.zeros_like(MASK)}, "hides every token"),
        ({"attention_mask": (IDS != 99).long() * MASK}, "hides visual tokens"),
        ({"attention_mask": MASK[None]}, "attention_mask has shape"),
        ({"inputs_embeds": torch.zeros(3, 2, 64)}, "give an embedding for each id"),
        ({"negative_prompt_ids": IDS}, "guidance_scale"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_a_prompt_is_refused(model, change, told):
    with pytest.raises(InputError, match=told):
        model.generate(**{**BATCH, **change}, **GREEDY)


@pytest.mark.parametrize("drafter", DRAFTERS, ids=str)
def test_embeddings_stand_for_the_ids(model, drafter):
    text = llava_inputs([(1, 0, 9)])
    embeddings = model.base.get_input_embeddings()(text["input_ids"]).flip(1)
    given = {**text, "inputs_embeds": embeddings.detach()}
    own = model.base.generate(**given, **GREEDY)
    output = model.generate(**given, **GREEDY, drafter=drafter)
    assert torch.equal(own, output)
    assert not torch.equal(own, model.base.generate(**text, **GREEDY))


def test_embeddings_may_hold_the_pictures(model):
    one = llava_inputs([(3, 1, 5)])
    embeddings = model.stack.embed_prompt(**one).hidden
    given = {"input_ids": one["input_ids"], "attention_mask": one["attention_mask"]}
    output = model.generate(**given, inputs_embeds=embeddings, **GREEDY, budget=0.5)
    assert torch.equal(output, model.generate(**one, **GREEDY, budget=0.5))
    assert output.stats.visual_tokens == [16]
