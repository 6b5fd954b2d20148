"""Decoding gives what the base's own ``generate`` gives, and speculation changes nothing."""

from __future__ import annotations

import torch

NEW = 8


def own_tokens(family, inputs, count=NEW):
    return family.base.generate(**inputs, max_new_tokens=count, do_sample=False)


def test_plain_decoding_equals_the_models_own_generate(family):
    for name, inputs in family.prompts().items():
        mine = family.model.generate(**inputs, drafter="plain", max_new_tokens=NEW)
        assert torch.equal(mine, own_tokens(family, inputs)), name


def test_speculative_decoding_equals_the_models_own_generate(family):
    for name, inputs in family.prompts().items():
        drafter = {"kind": "ssd", "length": 3, "threshold": 0.0}
        mine = family.model.generate(**inputs, drafter=drafter, max_new_tokens=NEW)
        assert torch.equal(mine, own_tokens(family, inputs)), name
        assert mine.stats.drafted_tokens > 0


def test_embeddings_of_text_are_taken_whatever_the_base_was_asked_before(family):
    prompts = family.prompts()
    inputs = prompts["text-only"]
    own = own_tokens(family, inputs)
    states = family.base.get_input_embeddings()(inputs["input_ids"]).detach()
    family.base.generate(**prompts.get("uneven batch", prompts["batch"]), max_new_tokens=2)
    mine = family.model.generate(**inputs, inputs_embeds=states, max_new_tokens=NEW)
    assert torch.equal(mine, own)


def next_turn(inputs, sequences, words):
    """The inputs of a second turn: the first one with its answer, and a question after it."""
    batch, length = inputs["input_ids"].shape
    answer = sequences[:, length:]
    answer = torch.where(answer < 80, answer, 5)  # words, where it said a placeholder
    question = torch.tensor(words).expand(batch, -1)
    ids = torch.cat((inputs["input_ids"], answer, question), 1)
    grown = dict(inputs, input_ids=ids)
    for name, value in inputs.items():
        if name != "input_ids" and value.shape[:2] == (batch, length):
            fill = value.new_full((batch, ids.shape[1] - length), int(name == "attention_mask"))
            grown[name] = torch.cat((value, fill), 1)
    return grown


def test_a_second_turn_equals_the_models_own(family):
    prompts = family.prompts()
    for name in ("image", "text-only", "image batch", "mixed-media"):
        inputs = prompts.get(name)
        if inputs is None:
            continue
        answer = family.model.generate(**inputs, max_new_tokens=NEW, eos_token_id=None)
        turn = next_turn(inputs, answer, [5, 6, 7])
        mine = family.model.generate(**turn, max_new_tokens=NEW)
        assert torch.equal(mine, own_tokens(family, turn)), name


def test_a_row_gets_the_same_answer_alone_and_in_a_batch(family):
    from tests.families.conftest import ROWS

    rows = ROWS["uneven batch" if family.visual else "batch"]
    together = family.model.generate(**family.tiny.inputs(rows), max_new_tokens=NEW)
    for row, tokens in zip(rows, together[:, -NEW:].tolist(), strict=True):
        inputs = family.tiny.inputs([row])
        alone = family.model.generate(**inputs, max_new_tokens=NEW)
        new = alone[0, inputs["input_ids"].shape[1] :].tolist()
        assert tokens[: len(new)] == new
