"""``twigkit map``: each record is answered once, as it would be alone, and a run goes on."""

from __future__ import annotations

import json

import pytest

from twigkit import TwigModel
from twigkit.bulk.records import Record
from twigkit.bulk.run import answer_records
from twigkit.cli.main import main
from twigkit.io.processors import load_processor, open_picture, prepare
from twigkit.specs.run import GenerationSpec

PROMPTS = ["what is there ?", "what is in the picture ?", "what ?", "there ?", "in the picture ?"]


@pytest.fixture(scope="module")
def model(folders):
    return TwigModel.from_pretrained(folders.base, folders.twig)


@pytest.fixture(scope="module")
def processor(folders):
    return load_processor(folders.base)


def alone(model, processor, record, **options):
    pictures = [open_picture(path) for path in record.pictures]
    inputs = prepare(processor, record.prompt, pictures)
    output = model.generate(**inputs, max_new_tokens=6, **options)
    new = output[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_answers_are_those_of_the_records_alone(model, processor, folders):
    picture = str(folders.picture)
    records = [
        Record(str(number), prompt, (picture,) if number % 2 else ())
        for number, prompt in enumerate(PROMPTS)
    ]
    spec = GenerationSpec(drafter="ssd", budget=0.5, max_new_tokens=6)
    answers = list(answer_records(model, processor, records, spec, rows=2))
    assert sorted(answer["id"] for answer in answers) == [record.id for record in records]
    for answer in answers:
        record = records[int(answer["id"])]
        assert answer["answer"] == alone(model, processor, record, drafter="ssd", budget=0.5)
        assert 0 < answer["tokens"] <= 6


def test_stop_strings_of_the_spec_end_answers(model, processor):
    spec, record = GenerationSpec(drafter="ssd", max_new_tokens=6), Record("a", "what ?")
    [whole] = answer_records(model, processor, [record], spec)
    stop = whole["answer"].split()[2]
    stopping = GenerationSpec(drafter="ssd", max_new_tokens=6, stop=(stop,))
    [cut] = answer_records(model, processor, [record], stopping)
    assert cut["answer"] == whole["answer"].partition(stop)[0] + stop


def test_a_record_that_cannot_be_answered_harms_no_other(model, processor):
    records = [Record("a", "what ?", ("nowhere.png",)), Record("b", "what ?")]
    spec = GenerationSpec(drafter="plain", max_new_tokens=3)
    answers = {each["id"]: each for each in answer_records(model, processor, records, spec)}
    assert "there is no file" in answers["a"]["error"]
    assert "error" not in answers["b"]


def test_a_place_that_takes_no_answers_is_told_before_a_model_is_loaded(tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "what ?"}) + "\n")
    words = ["map", str(data), "--base", "nowhere", "--out", str(data / "out.jsonl")]
    assert main(words) == 2
    assert "data.jsonl is a file" in capsys.readouterr().err


def test_the_command_goes_on_where_it_stopped(folders, tmp_path, capsys):
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": str(n), "prompt": text} for n, text in enumerate(PROMPTS)]
    rows[1]["image"] = str(folders.picture)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["map", data, "--out", out, *folders.model, "--max-new-tokens", "4", "--rows", "2"]
    assert main([*map(str, words)]) == 0
    said = capsys.readouterr()
    assert "5 records, 5 answered now, 0 with an error" in said.out
    lines = out.read_text().splitlines()
    out.write_text("\n".join(lines[:2]) + "\n" + lines[2][:9])
    assert main([*map(str, words)]) == 0
    assert "5 records, 3 answered now" in capsys.readouterr().out
    again = out.read_text().splitlines()
    assert sorted(again) == sorted(lines)
    assert again[:2] == lines[:2]
