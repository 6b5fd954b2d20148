"""A training spec travels through YAML and JSON, and says what is wrong with a bad one."""

import pytest

from twigkit import TwigSpec
from twigkit.errors import SpecError
from twigkit.strategies.distillation import DistillationSpec
from twigkit.strategies.reinforcement import ReinforcementSpec
from twigkit.training.spec import DataSpec, TrainingSpec, example

FULL = {
    "twig": {"base": "b", "exit_layer": 1, "depth": 2, "heads": {"lm": "lm", "m": "medusa"}},
    "base": "elsewhere",
    "data": {
        "source": "my.module:make",
        "path": "a.json",
        "images": "pictures",
        "evaluation": 0.1,
        "samples": 50,
        "most_broken": 3,
        "options": {"a": [1, {"b": None}]},
    },
    "objective": {"kind": "reinforcement", "group": 8, "budgets": [0.1, 0.5]},
    "optimiser": {"rate": 2e-5, "warmup": 10, "clip": None},
    "batch": 16,
    "micro_batch": 4,
    "steps": 7,
    "evaluate_every": 2,
    "patience": 3,
    "trackers": ["tensorboard"],
}


def spec(**changes):
    return TrainingSpec.parse({"twig": {"base": "b"}, "data": {"path": "a.json"}, **changes})


@pytest.mark.parametrize("made", [example(), TrainingSpec.parse(FULL), spec(twig="folder")])
def test_it_travels_through_yaml_and_json(made, tmp_path):
    assert TrainingSpec.from_yaml(made.to_yaml()) == made
    assert TrainingSpec.from_json(made.to_json()) == made
    path = tmp_path / "spec.yaml"
    path.write_text(made.to_yaml())
    assert TrainingSpec.from_file(path) == made


def test_the_defaults_are_the_paper_s():
    made = spec()
    stage = made.objective
    assert isinstance(stage, DistillationSpec)
    assert (stage.next_token, stage.prediction, stage.attention) == (None, None, None)
    assert (stage.temperature, stage.scale, stage.clip) == (5.0, 25.0, 4.0)
    assert stage.teacher_layer * 32 == 19
    assert (made.optimiser.rate, made.optimiser.betas) == (1e-4, (0.9, 0.98))
    assert (made.optimiser.decay, made.optimiser.warmup) == (0.0, 0.03)
    assert (made.optimiser.schedule, made.batch, made.epochs) == ("cosine", 128, 1.0)
    stage = spec(objective="reinforcement").objective
    assert isinstance(stage, ReinforcementSpec)
    assert [round(576 * budget) for budget in stage.budgets] == [64, 85, 107, 128, 149, 171, 192]
    assert (stage.group, stage.beta) == (32, 8.0)


def test_an_objective_is_a_name_a_mapping_or_a_spec():
    made = DistillationSpec(temperature=2)
    assert spec(objective=made).objective == made
    assert spec(objective={"kind": "distillation", "temperature": 2}).objective == made
    assert spec(objective="distillation").objective == DistillationSpec()


def test_a_twig_is_grown_or_a_folder_to_go_on_from():
    assert spec(twig="folder").twig == "folder"
    assert spec(twig=TwigSpec(base="x")).twig == TwigSpec(base="x")
    assert spec(twig="folder").base_source is None
    assert spec(twig="folder", base="c").base_source == "c"
    assert spec().base_source == "b"
    assert spec(base="c").base_source == "c"


@pytest.mark.parametrize(
    ("steps", "epochs", "samples", "total"),
    [
        (None, 1.0, 128, 1),
        (None, 1.0, 129, 2),
        (None, 3.0, 129, 6),
        (None, 0.5, 1280, 5),
        (None, 0.1, 1280, 1),
        (None, 0.01, 128, 1),
        (9, 1.0, 128, 9),
        (None, 1.0, 665_298, 5198),
    ],
)
def test_steps_follow_from_epochs_unless_they_are_given(steps, epochs, samples, total):
    assert spec(steps=steps, epochs=epochs).total_steps(samples) == total


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"twig": {"base": "b", "depth": 0}}, r"twig\.depth: got 0"),
        ({"twig": 3}, r"twig: got 3"),
        ({"twig": {"base": "b", "heads": {"x": "nose"}}}, "unknown head 'nose'"),
        ({"objective": "magic"}, "known: distillation, reinforcement"),
        ({"objective": {"temperature": 2}}, "known: distillation, reinforcement"),
        ({"objective": {"kind": "distillation", "temprature": 2}}, "did you mean 'temperature'"),
        ({"objective": {"kind": "reinforcement", "budgets": [0.3, 0.1]}}, "ascending"),
        ({"objective": {"kind": "reinforcement", "budgets": [0.1, 0.1]}}, "each once"),
        ({"objective": {"kind": "reinforcement", "budgets": []}}, "at least 1 item"),
        ({"data": {"path": "a", "source": "web"}}, "'package.module:factory'"),
        ({"data": {}}, "needs 'path'"),
        ({"data": {"source": "datasets"}}, "needs 'path'"),
        ({"data": {"path": "a", "options": {"seed": 1}}}, r"takes no 'options', and \['seed'\]"),
        ({"data": {"path": "a", "most_broken": -1}}, "whole number of at least 0"),
        ({"data": {"path": "a", "most_broken": 1.5}}, "from 0.0 to 1.0"),
        ({"data": {"path": "a", "most_broken": True}}, "whole number of at least 0"),
        ({"data": {"path": "a", "evaluation": 0}}, "whole number of at least 1"),
        ({"data": {"path": "a", "evaluation": ""}}, "at least 1 character"),
        ({"data": {"path": "a", "samples": 0.0}}, "above 0.0"),
        ({"data": {"path": "a", "longest": 2}}, "greater than or equal to 8"),
        ({"batch": 6, "micro_batch": 4}, "does not split into micro-batches of 4"),
        ({"patience": 2}, r"give data\.evaluation"),
        ({"evaluate_every": 2}, r"give data\.evaluation"),
        ({"data": {"path": "a", "evaluation": 3}, "patience": 2}, "give evaluate_every"),
        ({"optimiser": {"rate": 0}}, "greater than 0"),
        ({"optimiser": {"betas": [0.9, 1.0]}}, "less than 1"),
        ({"precision": "fp8"}, "fp32"),
        ({"batchsize": 4}, "did you mean 'batch'"),
    ],
)
def test_what_is_wrong_is_said(changes, told):
    with pytest.raises(SpecError, match=told):
        spec(**changes)


def test_a_factory_needs_no_path():
    made = DataSpec(source="my.module:make", options={"n": 3})
    assert made.path is None


def test_the_schema_describes_every_field():
    schema = TrainingSpec.json_schema()
    assert set(schema["properties"]) == set(TrainingSpec.model_fields)
    described = [schema["$defs"][name] for name in ("DataSpec", "OptimiserSpec")]
    kinds = schema["properties"]["objective"]["anyOf"]
    assert {"distillation", "reinforcement"} <= set(kinds[0]["enum"])
    settings = [
        schema["$defs"][kind["$ref"].split("/")[-1]] if "$ref" in kind else kind
        for kind in kinds[1:]
    ]
    assert len(settings) == len(kinds[0]["enum"])
    for properties in (held["properties"] for held in (*described, *settings)):
        assert all(held.get("description") for held in properties.values())
