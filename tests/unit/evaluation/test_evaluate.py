"""A whole evaluation of a tiny model, with a judge over HTTP."""

import json
import xml.dom.minidom
from pathlib import Path

import pytest

from tests.support.benchmark_files import mm_vet, vqav2
from tests.support.endpoint import endpoint
from twigkit import TwigModel
from twigkit.errors import InputError
from twigkit.evaluation.evaluate import evaluate
from twigkit.evaluation.judge import EndpointJudge
from twigkit.evaluation.spec import EvaluationSpec
from twigkit.io.processors import load_processor


@pytest.fixture(scope="module")
def model(folders):
    return TwigModel.from_pretrained(folders.base, twig=folders.twig)


@pytest.fixture(scope="module")
def processor(folders):
    return load_processor(folders.base)


def test_tasks_judge_and_submissions(model, processor, tmp_path):
    vet, _, _ = mm_vet(tmp_path / "vet")
    vqa, _, _ = vqav2(tmp_path / "vqa")
    spec = EvaluationSpec(
        tasks=({"kind": "mm-vet", **vet}, {"kind": "vqav2", **vqa, "annotations": None}),
        budgets=(0.5,), drafters=("ssd",), limit=1,
    )  # fmt: skip
    out = tmp_path / "out"
    with endpoint(lambda body: "0.5") as (url, requests):
        judge = EndpointJudge(url, "grader")
        data = evaluate(
            model, processor, spec, out, settings={"base": "tiny"}, judge=judge
        )  # fmt: skip
    assert requests
    rows = data["tasks"]["mm-vet"]["rows"]
    assert [row["method"] for row in rows] == ["unpruned, plain", "unpruned, ssd", "ttp 0.5, ssd"]
    assert [row["score"] for row in rows] == [50, 50, 50]
    assert rows[0]["rel_speed"] == 1
    assert rows[0]["tokens"] == rows[1]["tokens"], "drafts change no token"
    assert data["overall"][2]["rel_acc"]["value"] == 1
    assert data["overall"][2]["tasks"] == 1, "what a server scores has no part in RelAcc"
    assert data["tasks"]["vqav2"]["rows"][0]["score"] is None
    assert json.loads((out / "eval.json").read_text()) == data
    page = (out / "eval.md").read_text()
    assert "**unofficial**: judged by twigkit's prompt" in page
    assert "only the first of the benchmark's questions" in page
    assert "a server scores the files" in page
    assert xml.dom.minidom.parse(str(out / "eval.svg")).getElementsByTagName("circle")
    files = sorted(path.name for path in (out / "submissions").rglob("*.json"))
    assert files == ["mm-vet_answers.json"] * 3 + ["vqav2_answers.json"] * 3
    with pytest.raises(InputError, match=r"base = 'tiny', and this run has 'other'"):
        evaluate(model, processor, spec, out, settings={"base": "other"})


def test_questions_that_changed_are_not_taken_as_answered(model, processor, tmp_path):
    vqa, _, _ = vqav2(tmp_path / "vqa")
    spec = EvaluationSpec(tasks=({"kind": "vqav2", **vqa},), budgets=(), limit=1)
    evaluate(model, processor, spec, tmp_path / "out", settings={})
    questions = Path(vqa["questions"])
    questions.write_text(questions.read_text().replace("How many?", "How few?"))
    with pytest.raises(InputError, match="holds answers with prompts"):
        evaluate(model, processor, spec, tmp_path / "out", settings={})


def test_files_of_another_form_are_said(model, processor, tmp_path):
    (tmp_path / "q.json").write_text('{"v1": {"imagename": "x.png"}}')
    task = {"kind": "mm-vet", "questions": str(tmp_path / "q.json")}
    with pytest.raises(InputError, match=r"task 'mm-vet' are not of the form.*'question'"):
        evaluate(model, processor, EvaluationSpec(tasks=(task,)), tmp_path / "out", settings={})
    (tmp_path / "q.json").write_text("{}")
    with pytest.raises(InputError, match="hold no question"):
        evaluate(model, processor, EvaluationSpec(tasks=(task,)), tmp_path / "out", settings={})
