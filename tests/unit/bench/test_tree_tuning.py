"""Measured head accuracies, and the command that turns them into a tree."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, InputError, TwigModel, TwigSpec
from twigkit.bench.tree_tuning import RankMeter, accuracies, guessed_paths
from twigkit.cli import loading, main, tune_tree
from twigkit.specs.run import GenerationSpec


@pytest.fixture(scope="module")
def model():
    """The next token is always the best guess; the one after it is never said."""
    model = TwigModel(tiny_llava(layers=5))
    heads = {"lm": {"kind": "lm"}, "medusa": {"kind": "medusa", "offsets": 1}}
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=3, heads=heads)).eval()
    return model


PROMPTS = [llava_inputs([(3, 1, 5), (1, 0, 9)]), llava_inputs([(4, 0, 4)], seed=3)]
OPTIONS = {"max_new_tokens": 12, "eos_token_id": 98}


def test_accuracies_are_what_a_count_by_hand_gives(model):
    shares = accuracies(guessed_paths(model, PROMPTS, ranks=4, **OPTIONS), 4)
    assert shares[0] == [1.0, 0.0, 0.0, 0.0]
    hits, asked = torch.zeros(4), 0
    for inputs in PROMPTS:
        meter = RankMeter(ranks=4)
        output = model.generate(**inputs, drafter=meter, **OPTIONS)
        assert torch.equal(output, model.generate(**inputs, drafter="plain", **OPTIONS))
        for row, whole in enumerate(output[:, inputs["input_ids"].shape[1] :].tolist()):
            text = whole[: output.stats.new_tokens[row]]
            for place in range(len(text) - 2):
                guesses = meter.guesses[place][row, 1].tolist()
                asked += 1
                if text[place + 2] in guesses:
                    hits[guesses.index(text[place + 2])] += 1
    assert shares[1] == pytest.approx((hits / asked).tolist())
    assert 0 < hits.sum() < asked


def test_every_place_of_an_answer_has_its_path_of_ranks(model):
    """The first guess is always right here, so all paths run through it."""
    guessed = guessed_paths(model, PROMPTS, ranks=4, **OPTIONS)
    assert guessed.num_graphs == 3
    for tree in guessed.to_data_list():
        assert tree.visits[0] == tree.visits[1] > 1
        assert tree.token[tree.depth == 1].tolist() == [0]
        assert tree.visits[tree.depth == 2].sum() == tree.visits[0] - 1  # the last place has none
        assert set(tree.token[tree.depth == 2].tolist()) <= {-1, 0, 1, 2, 3}


def test_what_cannot_be_measured_is_refused(model):
    with pytest.raises(InputError, match="too short"):
        guessed_paths(model, PROMPTS, max_new_tokens=2)
    with pytest.raises(CapabilityError, match="needs the head 'other'"):
        guessed_paths(model, PROMPTS, ahead="other")


def test_the_command_writes_a_spec_that_generates(model, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tune_tree, "load_model", lambda args: model)
    monkeypatch.setattr("twigkit.io.processors.load_processor", lambda *_, **__: None)
    monkeypatch.setattr("twigkit.io.processors.prepare", lambda *_: PROMPTS[1])
    file = tmp_path / "tree.yaml"
    words = ["tune-tree", "--prompt", "x", "--nodes", "5", "--out", str(file)]
    assert main.main([*words, "--base", loading.DEMO, "--max-new-tokens", "12"]) == 0
    spec = GenerationSpec.from_file(file)
    assert spec.drafter.kind == "medusa-tree"
    assert (0,) in spec.drafter.paths
    assert "expected accepted length" in capsys.readouterr().out
    output = model.generate(**PROMPTS[0], drafter=spec.drafter, **OPTIONS)
    assert torch.equal(output, model.generate(**PROMPTS[0], drafter="plain", **OPTIONS))
    assert main.main([*words, "--image", "a", "--image", "b"]) == 2
    assert "2 --image for 1 --prompt" in capsys.readouterr().err
