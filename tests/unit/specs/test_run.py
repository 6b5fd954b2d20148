"""Specs: from Python, YAML and JSON, with kinds that only a stranger's plug-in knows."""

import json
import re
import subprocess
import sys

import pytest

from tests.support.least_plugins import LEAST
from twigkit.errors import SpecError
from twigkit.plugins.discovery import default_registry, discover
from twigkit.specs.run import (
    DrafterSpec,
    GenerationSpec,
    HeadSpec,
    PrunerSpec,
    TwigSpec,
)
from twigkit.specs.runtime import RunSpec, RuntimeSpec

CLASSES = {"drafter": "Guess", "pruner": "Coin", "head": "Oracle"}
PLUGIN = "".join(LEAST[kind].replace("Least", name) for kind, name in CLASSES.items())
PLUGIN += """
from typing import Literal
from pydantic import Field
from twigkit import DrafterSpec, hookimpl

class GuessSpec(DrafterSpec):
    kind: Literal["guess"] = "guess"
    length: int = Field(4, ge=1, le=8, description="Tokens to guess.")

@hookimpl
def register_drafters(register):
    register("guess", Guess, spec=GuessSpec)
    register("ssd", Guess)

@hookimpl
def register_pruners(register):
    register("coin", Coin)
    register("ttp", Coin)

@hookimpl
def register_heads(register):
    register("lm", Oracle)
    register("oracle", Oracle)
"""

DATA = {
    "twig": {"base": "some/base", "heads": {"lm": "lm", "wise": {"kind": "oracle"}}},
    "generation": {
        "budget": 0.25,
        "wipe_layer": 24,
        "pruner": "coin",
        "drafter": {"kind": "guess", "length": 7},
        "stop": ["\n", "ende"],
    },
    "runtime": {"dtype": "float32", "device_map": {"": "cpu"}},
}


@pytest.fixture
def registry(fake_distribution, monkeypatch):
    """The registry of a stranger's plug-in, in the place of the installed ones."""
    found = discover([str(fake_distribution("guess-kit", plugins={"guess_mod": PLUGIN}))])
    assert not found.problems
    monkeypatch.setattr("twigkit.specs.run.default_registry", lambda: found.registry)
    return found.registry


def refusal(make):
    with pytest.raises(SpecError) as caught:
        make()
    return str(caught.value)


def test_a_strangers_kinds_resolve_in_every_notation(registry):
    guess = registry.get("drafter", "guess").spec
    read = RunSpec.parse(DATA)
    assert read.generation.drafter == guess(length=7)
    assert type(read.generation.drafter) is guess
    assert read.generation.pruner == PrunerSpec(kind="coin")
    assert read.twig.heads == {"lm": HeadSpec(kind="lm"), "wise": HeadSpec(kind="oracle")}
    assert RunSpec.from_json(json.dumps(DATA)) == read
    assert RunSpec.from_yaml(json.dumps(DATA)) == read
    built = RunSpec(
        twig=TwigSpec(**DATA["twig"]),
        generation=GenerationSpec(**{**DATA["generation"], "drafter": guess(length=7)}),
        runtime=RuntimeSpec(**DATA["runtime"]),
    )
    assert built == read


def test_a_run_round_trips_through_text(registry):
    run = RunSpec.parse(DATA)
    assert RunSpec.from_yaml(run.to_yaml()) == run
    assert RunSpec.from_json(run.to_json()) == run
    assert "length: 7" in run.to_yaml()


def test_defaults_are_written_out(registry):
    spec = GenerationSpec(drafter=registry.get("drafter", "guess").spec())
    assert "kind: guess\n  length: 4\n" in spec.to_yaml()
    assert GenerationSpec.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize("budget", [None, 64, 1, 1.0, 0.125])
def test_a_budget_keeps_its_type_through_text(registry, budget):
    spec = GenerationSpec(budget=budget)
    for again in (spec.from_yaml(spec.to_yaml()), spec.from_json(spec.to_json())):
        assert again.budget == budget
        assert type(again.budget) is type(budget)


def test_files_are_read_by_their_ending(registry, tmp_path):
    run = RunSpec.parse(DATA)
    for name, text in (
        ("a.yaml", run.to_yaml()),
        ("b.yml", run.to_yaml()),
        ("c.json", run.to_json()),
    ):
        (tmp_path / name).write_text(text)
        assert RunSpec.from_file(tmp_path / name) == run


@pytest.mark.parametrize("drafter", ["guess", {"kind": "guess"}])
def test_a_bare_kind_takes_the_plugins_defaults(registry, drafter):
    assert GenerationSpec(drafter=drafter).drafter.length == 4


def test_a_base_spec_is_upgraded_to_the_plugins_own(registry):
    assert GenerationSpec(drafter=DrafterSpec(kind="guess")).drafter.length == 4


def test_the_registry_can_be_given_as_context(registry, monkeypatch):
    monkeypatch.setattr("twigkit.specs.run.default_registry", lambda: pytest.fail("not this one"))
    run = RunSpec.parse(DATA, context={"registry": registry})
    assert run.generation.drafter.length == 7


def test_defaults(registry):
    run = RunSpec.parse({"twig": {"base": "b"}})
    assert (run.twig.exit_layer, run.twig.depth, run.twig.init) == (2, 3, "copy")
    assert run.twig.heads == {"lm": HeadSpec(kind="lm")}
    assert (run.generation.pruner.kind, run.generation.drafter.kind) == ("ttp", "ssd")
    assert run.generation.budget is None


REFUSED = [
    ({"generation": {"drafter": "gess"}}, "generation.drafter: unknown drafter 'gess' (did you"),
    ({"generation": {"drafter": "coin"}}, "unknown drafter 'coin'; known: guess, ssd"),
    ({"generation": {"drafter": {"length": 2}}}, "a mapping with 'kind'"),
    ({"generation": {"drafter": 3}}, "known: guess, ssd"),
    ({"generation": {"drafter": {"kind": "guess", "length": 9}}}, "drafter.length: got 9;"),
    ({"generation": {"drafter": {"kind": "guess", "lenght": 2}}}, "did you mean 'length'?"),
    (
        {"generation": {"pruner": {"kind": "coin", "x": 1}}},
        "pruner: unknown field 'x'; known: kind",
    ),
    ({"generation": {"drafter": HeadSpec(kind="guess")}}, "got a HeadSpec of kind 'guess'"),
    ({"generation": {"bugdet": 3}}, "unknown field 'bugdet' (did you mean 'budget'?)"),
    ({"generation": {"budget": 0}}, "generation.budget: got 0; expected a whole number"),
    ({"generation": {"budget": -1}}, "got -1"),
    ({"generation": {"budget": 1.5}}, "got 1.5"),
    ({"generation": {"budget": 0.0}}, "got 0.0"),
    ({"generation": {"budget": True}}, "got True"),
    ({"generation": {"budget": "64"}}, "got '64'"),
    ({"generation": {"budget": float("nan")}}, "got nan"),
    ({"generation": {"wipe_layer": 0}}, "generation.wipe_layer: got 0"),
    ({"generation": {"max_new_tokens": 0}}, "max_new_tokens: got 0"),
    ({"twig": {"base": ""}}, "twig.base: got ''"),
    ({"twig": {"base": "b", "exit_layer": -1}}, "exit_layer: got -1"),
    ({"twig": {"base": "b", "depth": 0}}, "depth: got 0"),
    ({"twig": {"base": "b", "init": "middle"}}, "init: got 'middle'"),
    ({"twig": {"base": "b", "heads": {"lm": "ml"}}}, "twig.heads.lm: unknown head 'ml'"),
    ({"twig": {}}, "twig.base: this field is required"),
    ({"runtime": {"dtype": "int3"}}, "runtime.dtype: got 'int3'"),
    ({"oven": 1}, "RunSpec: unknown field 'oven'; known: base, twig, generation, runtime"),
]


@pytest.mark.parametrize(("change", "told"), REFUSED)
def test_what_does_not_fit_is_refused_with_its_place(registry, change, told):
    message = refusal(lambda: RunSpec.parse({"twig": {"base": "b"}, **change}))
    assert told in message
    assert message.startswith("RunSpec")
    assert "\n" not in message


def test_every_problem_has_its_line(registry):
    data = {"twig": {"base": "b", "depth": 0}, "generation": {"budget": 0, "drafter": "x"}}
    lines = refusal(lambda: RunSpec.parse(data)).split("\n")
    assert [line.split(":")[0] for line in lines] == [
        "RunSpec.twig.depth",
        "RunSpec.generation.budget",
        "RunSpec.generation.drafter",
    ]


def test_the_constructor_refuses_like_the_parser(registry):
    assert "TwigSpec.depth: got 0" in refusal(lambda: TwigSpec(base="b", depth=0))
    assert "did you mean 'depth'" in refusal(lambda: TwigSpec(base="b", dept=1))


def test_a_spec_of_a_class_that_nobody_registered_is_refused(registry):
    class Impostor(DrafterSpec):
        kind: str = "guess"

    message = refusal(lambda: GenerationSpec(drafter=Impostor()))
    assert "got a Impostor of kind 'guess', expected the GuessSpec" in message


def test_specs_are_frozen(registry):
    spec = TwigSpec(base="b")
    message = refusal(lambda: setattr(spec, "depth", 4))
    assert "frozen" in message
    assert spec.depth == 3


def test_replace_validates_again(registry):
    spec = GenerationSpec(budget=64)
    changed = spec.replace(budget=0.5, drafter="guess")
    assert (changed.budget, changed.drafter.length, spec.budget) == (0.5, 4, 64)
    assert "budget: got 0" in refusal(lambda: spec.replace(budget=0))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.yaml", "twig: [", "a.yaml: not valid YAML"),
        ("a.json", "{", "a.json: not valid JSON"),
        ("a.toml", "", "expected a file that ends in .yaml, .yml or .json"),
        ("a.yaml", "- 1\n- 2\n", "a.yaml: RunSpec: got [1, 2]"),
        (
            "a.yaml",
            "",
            "a.yaml: RunSpec: got nothing; expected a mapping of base, twig, generation",
        ),
        ("a.yaml", "? [a]\n: 1\n", "a.yaml: not valid YAML"),
        ("a.yaml", "twig: {base: b}\ntwig: {base: c}\n", "the key 'twig' is given twice"),
        ("a.json", '{"twig": {"base": "b", "base": "c"}}', "the key 'base' is given twice"),
    ],
)
def test_a_bad_file_is_told_by_its_name(registry, tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    message = refusal(lambda: RunSpec.from_file(tmp_path / name))
    assert told in message
    assert "\n" not in message


def test_a_missing_file_is_told(tmp_path):
    assert "No such file" in refusal(lambda: RunSpec.from_file(tmp_path / "a.yaml"))


def test_the_schema_holds_every_registered_kind(registry):
    schema = RunSpec.json_schema()
    options = schema["$defs"]["GenerationSpec"]["properties"]["drafter"]["anyOf"]
    assert options[0] == {"type": "string", "enum": ["guess", "ssd"]}
    guess, ssd = options[1:]
    assert guess["properties"]["length"]["maximum"] == 8
    assert "kind" in guess["required"]
    assert ssd["properties"]["kind"]["const"] == "ssd"
    assert schema["additionalProperties"] is False


def _fields():
    specs = [TwigSpec, GenerationSpec, RuntimeSpec, RunSpec]
    specs += [entry.spec for entry in default_registry().entries() if entry.spec]
    for spec in specs:
        for name, field in spec.model_fields.items():
            if name != "kind":
                yield pytest.param(field, id=f"{spec.__name__}.{name}")


FIELDS = list(_fields())


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_described(field):
    assert field.description
    assert field.description.endswith(".")


@pytest.mark.parametrize("field", [f for f in FIELDS if f.values[0].annotation in (int, float)])
def test_every_number_is_bounded(field):
    assert field.metadata, "a number without bounds"


def test_specs_import_neither_torch_nor_plugins():
    code = "import sys, twigkit.specs.run; print('torch' in sys.modules, 'pluggy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


SAMPLING = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "seed": 11,
    "repetition_penalty": 1.1,
}


def test_sampling_round_trips_through_text():
    spec = GenerationSpec(**SAMPLING)
    for again in (spec.from_yaml(spec.to_yaml()), spec.from_json(spec.to_json())):
        assert again == spec
    options = spec.options()
    assert {name: options[name] for name in SAMPLING} == SAMPLING
    assert not set(SAMPLING) & set(GenerationSpec().options())
    assert GenerationSpec(stop=("a", "b")).options()["stop_strings"] == ["a", "b"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("seed", 0.5),
    ],
)
def test_sampling_out_of_bounds_is_one_line(field, value):
    said = refusal(lambda: GenerationSpec(**{**SAMPLING, field: value}))
    assert re.fullmatch(rf"GenerationSpec\.{field}: got {value}; [^\n]+", said)


@pytest.mark.parametrize("field", ["temperature", "top_k", "top_p", "min_p", "seed"])
def test_settings_that_would_be_ignored_are_refused(field):
    for drawn in ({}, {"do_sample": False}):
        said = refusal(lambda drawn=drawn: GenerationSpec(**{field: SAMPLING[field]}, **drawn))
        assert f"{field} is {SAMPLING[field]}, which counts only where tokens are drawn" in said
        assert "\n" not in said
    assert GenerationSpec(repetition_penalty=1.2).options()["repetition_penalty"] == 1.2
