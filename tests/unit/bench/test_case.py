"""The rows of the user's own case, on a tiny model."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.bench import case
from twigkit.bench.case import Question, batches_of, case_methods, run_case
from twigkit.bench.case_report import as_data, as_markdown, as_text
from twigkit.interfaces.tiny_models import spread_weights


@pytest.fixture(scope="module")
def model():
    found = TwigModel(tiny_llava())
    found.generation_config.eos_token_id = None
    spread_weights(found.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)), seed=1)
    return found


@pytest.fixture(scope="module")
def prompts():
    return [llava_inputs([(2, 1, 3)], seed=seed) for seed in (0, 1, 2)]


QUESTION = Question((3,), (1, 2), (0.5,), ("ttp",), ("ssd", "medusa-tree"), warmup_seconds=60)


@pytest.fixture(scope="module")
def result(model, prompts):
    patch = pytest.MonkeyPatch()

    def few(*given):
        return [method for method in case_methods(*given) if not method.compiled]

    patch.setattr(case, "case_methods", few)  # a compiler may take a minute
    written = []
    found = run_case(model, prompts, QUESTION, rounds=2, written=written.append)
    patch.undo()
    assert len(written) == 2
    return found


def test_every_row_is_there_with_what_it_must_repeat(model):
    rows = {method.name: method for method in case_methods(model, QUESTION)}
    assert list(rows) == [
        "Hugging Face, dynamic cache",
        "Hugging Face, static cache",
        "Hugging Face, static cache, compiled",
        "Hugging Face, prompt lookup",
        "Hugging Face, assistant model",
        "Hugging Face, early exit after layer 4",
        "twigkit plain",
        "ssd",
        "medusa-tree",
        "ttp at 50%",
        "ttp at 50%, ssd",
        "ttp at 50%, medusa-tree",
    ]
    assert rows["ttp at 50%, ssd"].target == "ttp at 50%"
    assert rows["ttp at 50%"].target == ""
    assert rows["ssd"].target == "twigkit plain"
    assert {rows[name].target for name in list(rows)[1:7]} == {"Hugging Face, dynamic cache"}


def test_names_say_the_settings():
    assert case.named({"kind": "ssd", "length": 3}) == "ssd (length 3)"
    assert case.named({"kind": "ssd"}) == case.named("ssd") == "ssd"
    assert [case.told(budget) for budget in (64, 1 / 9)] == ["64 tokens", "11.1%"]


def test_what_ran_is_lossless_and_what_did_not_says_why(result):
    assert result.lossless
    alone, pairs = (cell.comparison for cell in result.cells)
    assert "name one with --assistant" in alone.failed["Hugging Face, assistant model"]
    assert "outer configuration" in alone.failed["Hugging Face, early exit after layer 4"]
    assert "medusa" in alone.failed["medusa-tree"]
    assert "batch_size = 1" in pairs.failed["Hugging Face, prompt lookup"]
    ran = {row.method.name for row in alone.rows}
    assert len(ran) + len(alone.failed) == 11
    assert alone.row("ssd").accepted_length >= 1
    assert pairs.row("ssd").tokens == 4 * 3


def test_the_report_holds_every_row(result):
    data = json.loads(json.dumps(as_data(result)))
    assert [cell["batch_size"] for cell in data["cells"]] == [1, 2]
    row = data["cells"][0]["rows"][0]
    assert row["relative_speed"] == 1.0
    assert row["latency"]["first"] > 0
    assert row["spread"][0] <= row["spread"][1]
    assert data["roofline"]["tokens_per_second"] > 0
    for text in (as_markdown(result), as_text(result)):
        assert "not run: no assistant model was named" in text
        assert text.count("p-head") == 0
        assert "Roofline" in text
    assert "Tokens/s of the slowest and the fastest round: Hugging Face" in as_markdown(result)


def test_batches_are_filled_up_from_the_first_prompts(prompts):
    batches = batches_of(prompts, 2)
    assert [len(batch["input_ids"]) for batch in batches] == [2, 2]
    assert torch.equal(batches[1]["input_ids"][1], prompts[0]["input_ids"][0])
    assert batches_of(prompts, 1) == prompts


def test_prompts_that_make_no_batch_are_told(model, prompts):
    odd = dict(prompts[0])
    odd["pixel_values"] = odd["pixel_values"].repeat(1, 1, 2, 1)
    question = dataclasses.replace(QUESTION, lengths=(4, 3), sizes=(2,))
    found = run_case(model, [prompts[0], odd], question, rounds=1)
    assert found.cells[0].comparison is None
    assert [cell.length for cell in found.cells] == [3, 4]
    assert "not run: prompts of these shapes" in as_text(found)
    assert as_data(found)["cells"][0]["rows"] == []
