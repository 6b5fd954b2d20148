"""What an evaluation runs."""

import pytest

from twigkit.errors import SpecError
from twigkit.evaluation.spec import EvaluationSpec, label
from twigkit.specs.run import GenerationSpec


def test_names_and_mappings_are_resolved_and_round_trip():
    spec = EvaluationSpec(tasks=("demo", {"kind": "pope", "images": "x"}), budgets=("1/9", 64))
    assert [task.kind for task in spec.tasks] == ["demo", "pope"]
    assert spec.budgets == (1 / 9, 64)
    assert (spec.pruners[0].kind, spec.drafters[0].kind) == ("ttp", "plain")
    assert EvaluationSpec.from_yaml(spec.to_yaml()) == spec


def test_a_task_named_twice_and_an_unknown_one_are_refused():
    with pytest.raises(SpecError, match="demo is named twice"):
        EvaluationSpec(tasks=("demo", {"kind": "demo", "questions": 3}))
    with pytest.raises(SpecError, match=r"unknown task 'pop'.*did you mean 'pope'"):
        EvaluationSpec(tasks=("pop",))


def test_a_label_has_what_differs():
    assert label(GenerationSpec(drafter="ssd").drafter) == "ssd"
    spec = GenerationSpec(drafter={"kind": "ssd", "length": 3, "threshold": 0.5}).drafter
    assert label(spec) == "ssd(length=3,threshold=0.5)"
