"""The n-gram drafter and its tables; that it changes no token, test_prompt_lookup holds."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import InputError, TwigModel
from twigkit.speculative.ngrams import NgramTable
from twigkit.strategies.ngram import NgramDrafter, NgramDrafterSpec

ROWS = [(3, 1, 5), (6, 2, 2), (1, 0, 9), (2, 1, 3)]
INPUTS = llava_inputs(ROWS)
PROMPT = INPUTS["input_ids"].shape[1]


@pytest.fixture(scope="module")
def model():
    return TwigModel(tiny_llava(seed=0))  # no end of its answer stands twice in it


@torch.inference_mode()
def test_an_answer_that_is_in_the_prompt_comes_at_once(model):
    """The prompt holds what the model will say: lookup finds it from the second token on."""
    ids = INPUTS["input_ids"][2:3, -11:]
    said = model.generate(input_ids=ids, max_new_tokens=12, eos_token_id=98)
    table = NgramTable.count([said[0].tolist()])
    options = {"input_ids": ids, "max_new_tokens": 12, "eos_token_id": 98}
    drafter = NgramDrafter(NgramDrafterSpec(learn=False))
    drafter.memory["table"] = table
    drafter.spec = drafter.spec.replace(table="in memory")
    output = model.generate(**options, drafter=drafter)
    assert torch.equal(said, output)
    assert output.stats.accepted_lengths == [[6, 5]]


@torch.inference_mode()
def test_a_table_is_read_once_for_all_calls(model, tmp_path, monkeypatch):
    path = tmp_path / "grams.json"
    NgramTable.count([[5, 6, 7, 8]]).save(path)
    loads, load = [], NgramTable.load
    monkeypatch.setattr(NgramTable, "load", lambda path: loads.append(path) or load(path))
    options = {**INPUTS, "max_new_tokens": 4, "drafter": {"kind": "ngram", "table": str(path)}}
    first, second = model.generate(**options), model.generate(**options)
    assert torch.equal(first, second)
    assert loads == [str(path)]
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        model.generate(**{**options, "drafter": {"kind": "ngram", "table": str(path), "order": 3}})
