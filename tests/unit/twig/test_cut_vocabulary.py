"""Heads that score a part of the vocabulary draft less and change no answer."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.errors import CapabilityError, SpecError
from twigkit.interfaces.tiny_models import spread_weights
from twigkit.twig.cut_vocabulary import cut_vocabulary

HEADS = {"lm": "lm", "medusa": "medusa", "pruning": "pruning"}
IDS = torch.arange(3, 99, 3)  # every third token
INPUTS = llava_inputs([(3, 1, 2), (6, 1, 5)])
DRAFTERS = ("ssd", "tree-ssd", "medusa-tree", {"kind": "ssd", "draws": True})


def grown():
    model = TwigModel(tiny_llava())
    twig = model.grow(TwigSpec.parse({"base": "t", "exit_layer": 2, "depth": 2, "heads": HEADS}))
    spread_weights(twig, seed=1)
    return model


@pytest.fixture(scope="module")
def model():
    found = grown()
    cut_vocabulary(found.twig, IDS)
    return found


def test_only_some_tokens_are_scored(model):
    whole, states = grown().twig, torch.randn(1, 2, 64)
    for name in ("lm", "medusa"):
        found, expected = model.twig.head(name)(states), whole.head(name)(states)
        torch.testing.assert_close(found[..., IDS], expected[..., IDS])
        rest = torch.ones(100, dtype=torch.bool)
        rest[IDS] = False
        assert bool((found[..., rest] == float("-inf")).all())
    assert model.twig.head("lm").linear.out_features == len(IDS)


@pytest.mark.parametrize("drafter", DRAFTERS[:3], ids=str)
def test_greedy_answers_are_the_targets(model, drafter):
    options = {"max_new_tokens": 20, "eos_token_id": None}
    expected = model.generate(**INPUTS, drafter="plain", **options)
    assert torch.equal(model.generate(**INPUTS, drafter=drafter, **options), expected)


@pytest.mark.parametrize("drafter", DRAFTERS[:3], ids=str)
def test_drawn_answers_are_plain_decodings(model, drafter):
    """Drafts that are chosen change nothing: the same seed gives the same tokens."""
    options = {"max_new_tokens": 12, "do_sample": True, "seed": 5, "eos_token_id": None}
    expected = model.generate(**INPUTS, drafter="plain", **options)
    assert torch.equal(model.generate(**INPUTS, drafter=drafter, **options), expected)


def test_drawn_drafts_leave_the_distribution_as_it_is(model):
    """The second token, over many seeds, with drafts that are drawn from a part only."""
    rows = 600
    inputs = llava_inputs([(3, 0, 2)])
    many = {name: value.expand(rows, -1) for name, value in inputs.items()}
    options = {"max_new_tokens": 3, "do_sample": True, "top_k": 4, "eos_token_id": None}
    counts = []
    for drafter, seed in (("plain", 0), (DRAFTERS[3], 10_000)):
        answers = model.generate(**many, drafter=drafter, seed=seed, **options)[:, -2]
        counts.append(torch.bincount(answers, minlength=100).float() / rows)
    assert float((counts[0] - counts[1]).abs().sum()) / 2 < 0.12


def test_the_checkpoint_holds_the_tokens(model, tmp_path):
    model.save_twig(tmp_path / "twig")
    again = TwigModel.from_pretrained(tiny_llava(), twig=tmp_path / "twig")
    assert again.twig.spec.heads["lm"].draft_vocabulary == len(IDS)
    assert again.twig.head("medusa").drafted.ids.tolist() == IDS.tolist()
    states = torch.randn(1, 2, 64)
    torch.testing.assert_close(again.twig.head("lm")(states), model.twig.head("lm")(states))


def test_what_cannot_be_cut_is_refused(model):
    with pytest.raises(SpecError, match="lack some of those"):
        cut_vocabulary(model.twig, [3, 4])
    other = TwigModel(tiny_llava())
    heads = {"pruning": "pruning"}
    other.grow(TwigSpec.parse({"base": "t", "exit_layer": 2, "depth": 2, "heads": heads}))
    with pytest.raises(CapabilityError, match=r"none of the twig's heads \(pruning\)"):
        cut_vocabulary(other.twig, [1, 2])


def test_a_head_with_fewer_rows_than_the_base_is_cut_like_others(tmp_path):
    """Published twigs have such heads: their base's vocabulary was padded afterwards."""
    model = TwigModel(tiny_llava())
    heads = {"lm": {"kind": "lm", "rows": 90}}
    model.grow(TwigSpec.parse({"base": "t", "exit_layer": 2, "depth": 2, "heads": heads}))
    states = torch.randn(1, 2, 64)
    whole = model.twig.head("lm")(states)
    with pytest.raises(SpecError, match="scores 90 of 100 tokens, which lack some"):
        cut_vocabulary(model.twig, [1, 95])
    cut_vocabulary(model.twig, [1, 5, 89])
    model.save_twig(tmp_path / "twig")
    again = TwigModel.from_pretrained(tiny_llava(), twig=tmp_path / "twig")
    found = again.twig.head("lm")(states)
    torch.testing.assert_close(found[..., [1, 5, 89]], whole[..., [1, 5, 89]])
    assert int(found.isfinite().sum()) == 2 * 3
    with torch.device("meta"):
        TwigModel(tiny_llava()).grow(model.twig.spec)
