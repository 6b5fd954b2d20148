"""Rows from answers that are made up, and methods that cannot run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.support.capturing import capturing_model, recorded
from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel
from twigkit.bench import compare as comparing
from twigkit.bench.compare import Difference, compare, joules_per_token, spread
from twigkit.bench.methods import Answer, Method
from twigkit.errors import CapabilityError, InputError
from twigkit.generation.batch_pool import BatchPool

WORDS = llava_inputs([(2, 1, 3)])


def run(tokens, seconds, joules=None):
    return Answer([[1] * tokens], seconds / 2, seconds / 2, [], 0, 0, 0, joules=joules)


@pytest.mark.parametrize(("engine", "lossless"), [("twigkit", False), ("hugging-face", True)])
def test_only_what_twigkit_says_is_held_against_it(engine, lossless):
    """Hugging Face's caches may round differently; what twigkit says must be its target's."""
    model = TwigModel(tiny_llava())
    methods = [Method("one", engine="hugging-face"), Method("other", target="one", engine=engine)]
    found = compare(model, [llava_inputs([(2, 1, 3)])], methods, max_new_tokens=2)
    assert found.lossless
    wrong = replace(found.rows[1], difference=Difference(0, 1, gap=1.0, rounding=0.1))
    assert wrong.wrong
    assert replace(found, rows=[found.rows[0], wrong]).lossless is lossless


def test_every_round_of_a_prompt_begins_with_another_method(monkeypatch):
    order = []

    def noted(model, inputs, method, **options):
        order.append((inputs["input_ids"].shape[1], method.name))
        return run(1, 1.0)

    monkeypatch.setattr(comparing, "warm_up", lambda *given: "")
    monkeypatch.setattr(comparing, "answer", noted)
    prompts = [llava_inputs([(2, 1, words)]) for words in (3, 4)]
    methods = [Method("one"), Method("other")]
    compare(TwigModel(tiny_llava()), prompts, methods, max_new_tokens=1, rounds=2)
    for prompt in {place for place, _ in order}:
        turns = [name for place, name in order if place == prompt]
        assert turns[0] != turns[2]


def test_the_spread_is_that_of_whole_rounds():
    first = [run(4, 1.0), run(4, 2.0), run(4, 1.0)]
    second = [run(6, 1.0), run(6, 3.0), run(6, 4.0)]
    assert spread([first, second]) == (2.0, 5.0)
    assert spread([]) == (0.0, 0.0)


def test_energy_is_per_token_of_all_rounds_or_unknown():
    assert joules_per_token([run(4, 1.0, 2.0), run(6, 1.0, 3.0)]) == 0.5
    assert joules_per_token([run(4, 1.0, 2.0), run(6, 1.0)]) is None
    assert joules_per_token([]) is None


def test_a_method_that_cannot_run_is_named_and_its_followers_are_not_judged():
    model = TwigModel(tiny_llava())
    prompts = [llava_inputs([(2, 1, 3)])]
    methods = [
        Method("plain"),
        Method("lost", drafter="ssd"),
        Method("after it", target="lost"),
        Method("again", target="plain"),
    ]
    found = compare(model, prompts, methods, max_new_tokens=3, most_seconds=60, peaks=True)
    assert list(found.failed) == ["lost"]
    assert "twig" in found.failed["lost"]
    assert {row.method.name: row.same for row in found.rows} == {
        "plain": "is a target", "after it": "the target did not run", "again": "yes",
    }  # fmt: skip
    assert all(row.peak_bytes > 0 for row in found.rows)
    assert all(row.spread[0] <= row.tokens_per_second * 1.001 for row in found.rows)
    with pytest.raises((CapabilityError, InputError)):
        compare(model, prompts, methods, max_new_tokens=3)


def test_every_engine_gets_prompts_in_the_place_and_precision_of_the_base():
    model = TwigModel(tiny_llava().to(torch.bfloat16))
    prompt, seen = llava_inputs([(2, 1, 3)]), []
    model.base.model.vision_tower.register_forward_pre_hook(
        lambda tower, args, given: seen.append((*args, *given.values())[0].dtype), with_kwargs=True
    )
    methods = [Method("base", engine="hugging-face"), Method("plain")]
    compare(model, [prompt], methods, max_new_tokens=2)
    assert prompt["pixel_values"].dtype == torch.float32
    assert set(seen) == {torch.bfloat16}


def test_a_method_that_takes_too_long_is_named():
    model = TwigModel(tiny_llava())
    found = compare(
        model, [llava_inputs([(2, 1, 3)])], [Method("slow")], max_new_tokens=50, most_seconds=1e-3
    )
    assert found.failed == {"slow": "its first answer took more than 0.001 s; allow it more"}
    assert found.rows == []


def test_a_difference_in_a_batch_names_the_prompt():
    model = TwigModel(tiny_llava())
    model.generation_config.eos_token_id = None
    text, batch = llava_inputs([(4, 0, 3), (3, 0, 3)]), llava_inputs([(2, 1, 3), (1, 1, 2)])
    methods = [Method("plain"), Method("pruned", target="plain", budget=2, pruner="random")]
    found = compare(model, [text, batch], methods, max_new_tokens=8)
    difference = found.row("pruned").difference
    assert difference is not None
    assert difference.prompt >= 2, "without pictures nothing is pruned"
    place = difference.prompt - 2
    rows = {name: many[1].rows[place] for name, many in found.answers.items()}
    assert rows["plain"][: difference.token] == rows["pruned"][: difference.token]
    assert rows["plain"][difference.token] != rows["pruned"][difference.token]
    assert difference.gap is not None
    assert difference.gap > 0


@pytest.mark.parametrize(
    ("again", "logits", "tie"),
    [
        ([5, 3], [0.0, 0, 0, 8.0, 7.75], True),
        ([5, 4], [0.0, 0, 0, 7.75, 8.0], True),  # what is not captured rounds otherwise
        ([5, 4], [0.0, 0, 0, 1.0, 8.0], False),
        ([2, 3], [0.0, 0, 0, 8.0, 8.0], False),  # the logits of another text
        ([5], [0.0, 0, 0, 8.0, 8.0], False),
    ],
)
def test_a_tie_is_one_whichever_token_the_target_takes_when_it_is_asked_again(
    monkeypatch, again, logits, tie
):
    def answers(model, inputs, method, *, max_new_tokens, keep_logits=False, meter=None):
        given = run(1, 1.0)
        if keep_logits:
            assert max_new_tokens == 2
            return replace(given, rows=[again], logits=torch.tensor([logits]))
        return replace(given, rows=[[5, 3, 7] if method.name == "plain" else [5, 4, 9]])

    monkeypatch.setattr("twigkit.bench.compare.answer", answers)
    monkeypatch.setattr("twigkit.bench.warm_up.answer", answers)
    model = TwigModel(tiny_llava().to(torch.bfloat16))
    methods = [Method("plain"), Method("other", target="plain")]
    found = compare(model, [llava_inputs([(2, 1, 3)])], methods, max_new_tokens=3)
    assert found.row("other").difference.token == 1
    assert found.lossless is found.row("other").difference.tie is tie


def test_a_difference_is_judged_where_steps_must_be_captured():
    model = capturing_model()
    model.generation_config.eos_token_id = None
    methods = [Method("plain"), Method("pruned", target="plain", budget=2, pruner="random")]
    with recorded(model):
        found = compare(model, [llava_inputs([(2, 1, 3)])], methods, max_new_tokens=8)
        assert found.row("pruned").difference.gap > 0
        assert model.batches.mode == "on"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_row_without_room_for_its_peak_keeps_the_rest(monkeypatch, error):
    def fail(*args, **options):
        raise error("CUDA error")

    monkeypatch.setattr(comparing, "reserved_bytes", fail)
    model = SimpleNamespace(device=torch.device("cuda"), batches=BatchPool())
    row = compare(TwigModel(tiny_llava()), [WORDS], [Method("one")], max_new_tokens=1).rows[0]
    if error is torch.OutOfMemoryError:
        assert comparing._with_peak(model, WORDS, row, 1) is row
    else:
        with pytest.raises(RuntimeError, match="CUDA error"):
            comparing._with_peak(model, WORDS, row, 1)
