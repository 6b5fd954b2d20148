"""The benchmark at a preset's shape, on the family's tiny model."""

from __future__ import annotations

import json

import pytest
import torch

from tests.support.capturing import recorded
from twigkit.bench import shape_suite
from twigkit.bench.answering import answer
from twigkit.bench.random_model import random_model
from twigkit.bench.shape_report import as_data, as_markdown
from twigkit.bench.shape_suite import PARTS, run_shape, shape_methods
from twigkit.cli.main import main


@pytest.fixture(scope="module")
def random():
    return random_model("llava-1.5-7b", torch.device("cpu"), torch.float32, tiny=True)


@pytest.fixture(scope="module")
def result(random):
    written = []
    found = run_shape(
        random, rounds=1, max_new_tokens=5, synthetic=3.5, training=1, written=written.append
    )
    passes = len(found.layers)
    assert len(written) == len(PARTS) + 2 + passes  # each training stage and layer besides
    return found


def test_all_parts_are_measured(result):
    assert result.failed == {}
    assert result.decoding.lossless
    same = {row.method.name: row.same for row in result.decoding.rows}
    assert same["twigkit plain"] == "yes"
    assert same["path"] == "synthetic, 2.5 a step"
    assert same["tree, 3 levels"] == same["Medusa tree"] == "synthetic, 3.5 a step"
    assert [row.size for row in result.batches] == [1, 8]
    assert [cost.samples for cost in result.training] == [4, 1]
    assert all(cost.flops > 0 and cost.samples_per_second > 0 for cost in result.training)
    assert len(result.layers) == 17
    assert len(result.ratios) == 10


def test_synthetic_steps_are_captured_and_timed(random):
    model, methods = random.model, shape_methods(3.5)
    before = answer(model, random.prompts[0], methods[2], max_new_tokens=24).rows
    with recorded(model) as runners:
        found = run_shape(random, rounds=1, max_new_tokens=24, synthetic=3.5, parts=("decoding",))
    assert found.failed == {}
    assert sum(bool(runner.replays) for runner in runners) == 5  # the others are of prefill
    rows = [row for row in found.decoding.rows if row.method.engine == "twigkit"]
    assert found.decoding.answers["twigkit plain"][0].rows == before
    assert [row.accepted_length > 2 for row in rows] == [False, True, True, True, True]
    assert all(sum(row.step_seconds.values()) > 0 for row in rows)
    assert len(found.ratios) == 8


def test_a_method_that_fails_leaves_the_others(random, monkeypatch):
    def slow(model, inputs, method, max_new_tokens, keep_logits):
        raise RuntimeError("no such cache")

    monkeypatch.setattr("twigkit.bench.answering.hugging_face_answer", slow)
    found = run_shape(random, rounds=1, max_new_tokens=2, parts=("decoding",))
    assert len(found.failed) == 2
    assert found.failed["decoding, Hugging Face, static cache"].endswith("no such cache")
    assert found.ratios[0].name == "twigkit plain / roofline"


def test_every_table_about_drafting_says_synthetic(result):
    text = as_markdown(result)
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    about = [line for table in tables for line in table.splitlines() if "tree" in line]
    assert len(about) == 9
    assert all("synthetic" in line for line in about)
    assert json.dumps(as_data(result))


def test_a_part_that_fails_is_named_and_the_others_run(random, monkeypatch):
    def broken(*given, **options):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(shape_suite, "measure_roofline", broken)
    found = run_shape(random, rounds=1, max_new_tokens=2, parts=("decoding", "prefill"))
    assert found.failed == {"decoding": "RuntimeError: out of memory"}
    assert found.prefill is not None
    assert found.batches == []
    assert "**decoding failed: RuntimeError: out of memory**" in as_markdown(found)


def test_without_synthetic_acceptance_nothing_drafts():
    assert [method.drafter for method in shape_methods(None)] == ["plain"] * 3


def test_the_command(tmp_path, capsys):
    words = ["bench", "--preset", "llava-1.5-7b", "--random-weights", "--tiny", "--threads", "1"]
    words += ["--max-new-tokens", "2", "--quick", "--parts", "prefill", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "## Prefill" in (tmp_path / "shape.md").read_text()
    assert "## Prefill" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "llava-1.5-7b"], "add --random-weights"),
        (["--synthetic-acceptance", "3"], "name one with --preset"),
        (["--preset", "x", "--random-weights"], "there is no preset 'x'"),
        (
            ["--preset", "x", "--random-weights", "--synthetic-acceptance", "9"],
            "more than 1 and at most 4",
        ),
        (["--preset", "x", "--random-weights", "--parts", "all"], "known: decoding"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, tmp_path, capsys):
    assert main(["bench", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err
