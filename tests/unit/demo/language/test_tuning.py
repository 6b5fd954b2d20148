"""Tuned drafters: all settings are timed, and the fastest of each kind is kept."""

from __future__ import annotations

import pytest
import torch

from twigkit import TwigModel, TwigSpec
from twigkit.demo.language import tuning
from twigkit.demo.language.tuning import choices, tuned_drafters

HEADS = {"lm": "lm", "medusa": {"kind": "medusa", "offsets": 2}}
PROMPTS = [{"input_ids": torch.tensor([[1, 5, 6, 2, 1]])},
           {"input_ids": torch.tensor([[1, 9, 8, 2, 1]])}]  # fmt: skip


@pytest.fixture(scope="module")
def model(chat_base):
    model = TwigModel.from_pretrained(chat_base)
    model.grow(TwigSpec.parse({"base": "t", "exit_layer": 3, "depth": 1, "heads": HEADS}))
    return model


def test_static_trees_of_several_sizes_suit_the_heads():
    offered = choices([[0.9, 0.05], [0.8, 0.1]])["Medusa tree"]
    assert [len(spec["paths"]) for spec in offered] == [1, 2, 3, 5, 6]  # no more guesses than six
    assert offered[1]["paths"] == [[0], [0, 0]]
    assert "Medusa tree" not in choices(None)


def test_the_fastest_of_each_kind_is_kept(model, monkeypatch):
    given = tuning.answer

    def with_times(model, inputs, way, **options):
        """Longer drafts take less time, whatever they took."""
        answer = given(model, inputs, way, **options)
        assert len(answer.tokens) == 8
        drafted = way.drafter.get("length", way.drafter.get("nodes", 0))
        drafted += len(way.drafter.get("paths", ()))
        return type(answer)(**{**vars(answer), "prefill_seconds": 0, "decode_seconds": -drafted})

    monkeypatch.setattr(tuning, "answer", with_times)
    found = tuned_drafters(model, PROMPTS, ahead=True, max_new_tokens=8)
    offered = choices(found["shares"])
    assert {name: [one["spec"] for one in of] for name, of in found["tried"].items()} == offered
    assert found["drafters"]["path"] == {"kind": "ssd", "length": 4, "threshold": 0.3}
    assert found["drafters"]["tree"] == offered["tree"][-1]
    assert found["drafters"]["Medusa tree"] == offered["Medusa tree"][-1]
    assert found["tried"]["path"][0]["seconds"] == -2  # of two prompts


def test_a_twig_without_heads_that_look_ahead_has_no_static_tree(chat_base):
    model = TwigModel.from_pretrained(chat_base)
    model.grow(TwigSpec(base="t", exit_layer=3, depth=1))
    found = tuned_drafters(model, PROMPTS[:1], ahead=False, max_new_tokens=3)
    assert list(found["drafters"]) == ["path", "tree"]
    assert all(one["seconds"] > 0 for of in found["tried"].values() for one in of)
