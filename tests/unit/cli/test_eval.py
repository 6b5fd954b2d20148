"""``twigkit eval``: options, files, and a run."""

import argparse
import json
from types import SimpleNamespace

import pytest

from twigkit.cli import eval as command
from twigkit.cli.main import main
from twigkit.errors import InputError, SpecError
from twigkit.evaluation.spec import EvaluationSpec


def read(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.read(parser.parse_args(list(words)))


def test_options_become_a_spec():
    spec = read(
        "--task", "pope:images=x,suffix=", "--task", "demo:questions=3", "--budgets", "1/9", "64",
        "--pruners", "ttp", "fastv", "--drafters", "ssd", "--limit", "5", "--batch", "2",
    )  # fmt: skip
    assert [t.kind for t in spec.tasks] == ["pope", "demo"]
    assert (spec.tasks[0].images, spec.tasks[1].questions) == ("x", 3)
    assert spec.budgets == (1 / 9, 64)
    assert [p.kind for p in spec.pruners] == ["ttp", "fastv"]
    assert (spec.limit, spec.batch, spec.frames) == (5, 2, 8)
    assert [t.kind for t in read().tasks] == ["demo"]


def test_options_count_more_than_a_file(tmp_path):
    file = tmp_path / "eval.yaml"
    file.write_text("tasks: [mme]\nbudgets: [1/3]\nlimit: 7\n")
    spec = read("--spec", str(file), "--limit", "2")
    assert ([t.kind for t in spec.tasks], spec.limit, spec.budgets) == (["mme"], 2, (1 / 3,))
    assert [t.kind for t in read("--spec", str(file), "--task", "demo").tasks] == ["demo"]


def test_what_cannot_be_read_is_said():
    with pytest.raises(InputError, match="'images' is no setting; expected NAME:SETTING=VALUE"):
        read("--task", "pope:images")
    with pytest.raises(SpecError, match="unknown task 'poop'") as told:
        read("--task", "poop")
    assert "at least 1 item" not in str(told.value)
    with pytest.raises(SpecError, match="tasks"):
        EvaluationSpec(tasks=())


def test_a_run_prints_its_page_and_shows_a_bar(folders, tmp_path, capsys):
    words = ["eval", "--base", str(folders.base), "--twig", str(folders.twig), "--task"]
    words += ["demo:questions=2", "--budgets", "0.5", "--out", str(tmp_path)]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "# Evaluation" in told.out
    assert "demo: 100%" in told.err
    data = json.loads((tmp_path / "eval.json").read_text())
    assert [row["method"] for row in data["overall"]] == ["unpruned, plain", "ttp 0.5, plain"]
    assert data["settings"]["base"] == str(folders.base)


@pytest.mark.parametrize(
    ("words", "twig"),
    [([], "demo"), (["--twig", "none"], "none"), (["--base", "b"], "none"),
     (["--base", "b", "--twig", "t"], "t")],
)  # fmt: skip
def test_the_report_names_the_twig(words, twig):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    model = SimpleNamespace(twig=None if twig == "none" else "a twig")
    assert command.named_twig(parser.parse_args(words), model) == twig


def test_a_base_that_is_a_twig_is_named_as_the_twig():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--base", "org/twig"])
    assert command.named_twig(args, SimpleNamespace(twig="a twig")) == "org/twig"


def test_half_a_judge_is_refused(capsys):
    assert main(["eval", "--judge-url", "http://localhost:1/v1"]) == 2
    assert "both --judge-url and --judge-model" in capsys.readouterr().err
    words = ["eval", "--judge-url", "http://x", "--judge-model", "m", "--judge-key", "nowhere"]
    assert main(words) == 2
    assert "cannot read the key in nowhere" in capsys.readouterr().err
