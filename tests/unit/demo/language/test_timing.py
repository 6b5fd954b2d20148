"""Timed answers: all ways, the rows of the table, and a measurement that goes on."""

from __future__ import annotations

import json

import pytest
import torch

from twigkit import TwigModel, TwigSpec
from twigkit.demo.language.timing import BASELINE, drafters, methods, summarise, time_answers

HEADS = {"lm": "lm", "medusa": {"kind": "medusa", "offsets": 2}}
INPUTS = [("list", {"input_ids": torch.tensor([[1, 5, 6, 2, 1]])}),
          ("code", {"input_ids": torch.tensor([[1, 9, 8, 2, 1]])})]  # fmt: skip


@pytest.fixture(scope="module")
def model(chat_base):
    model = TwigModel.from_pretrained(chat_base)
    model.grow(TwigSpec.parse({"base": "t", "exit_layer": 3, "depth": 1, "heads": HEADS}))
    return model


def tuned(length, threshold=0.3):
    return {
        "path": {"kind": "ssd", "length": length, "threshold": threshold},
        "tree": {"kind": "tree-ssd", "children": 2, "levels": length, "nodes": 4},
        "Medusa tree": {"kind": "medusa-tree", "paths": [[0], [1], [0, 0]]},
    }


WAYS = methods(drafters(tuned(2)), exit_layer=3)


def test_every_way_gives_the_tokens_of_the_first(model, tmp_path):
    path = tmp_path / "timings.jsonl"
    lines = time_answers(model, INPUTS, WAYS, path, max_new_tokens=6, rounds=1)
    assert len(lines) == len(WAYS) * 2 == 18
    rows = summarise(lines, WAYS)
    assert [row["method"] for row in rows][:1] == [BASELINE]
    assert {row["same"] for row in rows} == {2}
    assert rows[0]["speed"] == 1.0
    accepted = {row["method"] for row in rows if row["accepted_length"] is not None}
    assert {"path", "tree", "Medusa tree", "auto", "prompt lookup"} <= accepted
    assert json.loads(path.read_text().splitlines()[0])["method"] == BASELINE


def test_a_measurement_goes_on_where_it_stopped(model, tmp_path):
    path, told = tmp_path / "timings.jsonl", []
    time_answers(model, INPUTS, WAYS[:2], path, max_new_tokens=4, rounds=2, seconds=0.0)
    assert path.exists() is False
    time_answers(model, INPUTS, WAYS[:2], path, max_new_tokens=4, rounds=2)
    text = path.read_text()
    rest = text.splitlines(keepends=True)
    path.write_text("".join(rest[:5]) + rest[5][:9])
    lines = time_answers(
        model, INPUTS, WAYS[:2], path, max_new_tokens=4, rounds=2, progress=told.append
    )
    assert told == ["round 2 of 2, prompt 1 of 2", "round 2 of 2, prompt 2 of 2"]
    assert len(lines) == 8
    told.clear()
    others = methods(drafters(tuned(1, 0.9)), exit_layer=3)
    options = {"max_new_tokens": 4, "rounds": 1, "progress": told.append}
    time_answers(model, INPUTS, WAYS[4:5], path, **options)
    time_answers(model, INPUTS, others[4:5], path, **options)  # a path of other settings
    assert len(told) == 4
    assert path.read_text().startswith("".join(rest[:5]))


def test_prompts_that_some_way_did_not_answer_do_not_count(model, tmp_path):
    path = tmp_path / "timings.jsonl"
    time_answers(model, INPUTS[:1], WAYS[:1], path, max_new_tokens=4, rounds=1)
    assert time_answers(
        model, INPUTS[:1], WAYS[:2], path, max_new_tokens=4, rounds=1, seconds=-1.0
    ) == []  # fmt: skip


def timed(method, prompt, seconds, *, number=0, tokens=(1, 2), gains=()):
    kind = ("list", "code")[prompt]
    names = ("round", "prompt", "kind", "method", "seconds", "tokens", "accepted_lengths")
    values = (number, prompt, kind, method, seconds, list(tokens), list(gains))
    return dict(zip(names, values, strict=True))


def test_rows_are_medians_over_rounds_and_sums_over_prompts():
    plain = WAYS[3]
    lines = [
        *(timed(BASELINE, 0, s, number=n) for n, s in enumerate((2.0, 9.0, 4.0))),
        *(timed(BASELINE, 1, 6.0, number=n) for n in range(3)),
        *(timed("plain", 0, s, number=n, gains=(1, 3)) for n, s in enumerate((1.0, 2.0, 8.0))),
        *(timed("plain", 1, 2.0, number=n, gains=(2, 2)) for n in range(2)),
        timed("plain", 1, 2.0, number=2, tokens=(1, 5)),
    ]
    first, row = summarise(lines, [WAYS[0], plain])
    assert first["tokens_per_second"] == pytest.approx(4 / 10)
    assert row["speed"] == pytest.approx(10 / 4)
    assert row["kinds"] == {"list": pytest.approx(4 / 2), "code": pytest.approx(6 / 2)}
    assert (row["same"], row["answers"]) == (5, 6)
    busy = [{**line, "processor_seconds": 2 * line["seconds"] - 1} for line in lines]
    assert summarise(busy, [WAYS[0], plain], "processor_seconds")[1]["speed"] == pytest.approx(
        18 / 6
    )
    assert row["accepted_length"] == pytest.approx(2.0)
