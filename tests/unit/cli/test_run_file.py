"""One file says all of a run, to commands and in Python."""

from __future__ import annotations

import json

import pytest
import torch

from tests.support.tiny import llava_inputs
from twigkit import CapabilityError, RunSpec, SpecError, TwigModel
from twigkit.cli.main import main, parse
from twigkit.cli.run_file import defaults_of
from twigkit.cli.serve import _given
from twigkit.twig.quantised_weights import is_quantised_twig

ASK = ["--prompt", "what is in the picture ?"]


@pytest.fixture
def file(folders, tmp_path):
    """The file of a run with a trained twig, and settings that are no defaults."""
    run = {
        "base": str(folders.base),
        "twig": str(folders.twig),
        "generation": {"budget": 0.5, "max_new_tokens": 6, "drafter": {"kind": "plain"}},
        "runtime": {"dtype": "float32", "graphs": "off", "attention": "eager"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(RunSpec.parse(run).to_yaml())
    return path


def answered(capsys, *words):
    assert main(["generate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file_stands_for_the_options(file, folders, capsys):
    picture = ["--image", folders.picture, *ASK]
    options = ["--budget", "0.5", "--max-new-tokens", "6", "--drafter", "plain"]
    by_options = answered(capsys, *folders.model, *picture, *options)
    by_file = answered(capsys, "--run", file, *picture)
    assert by_file["tokens"] == by_options["tokens"]
    assert by_file["stats"]["visual_per_layer"] == by_options["stats"]["visual_per_layer"]
    assert by_file["stats"]["steps"] == by_options["stats"]["steps"] == 5


def test_options_beside_a_file_count_more(file, folders, capsys):
    words = ["--run", file, "--image", folders.picture, *ASK]
    more = ["--budget", "1.0", "--max-new-tokens", "3", "--dtype", "bfloat16", "--pruner", "fastv"]
    found = answered(capsys, *words, *more)
    assert len(found["tokens"]) == 3
    assert found["stats"]["kept_tokens"] == {}
    args = parse(["generate", *map(str, words), *more], **defaults_of(str(file)))[1]
    assert (args.base, args.twig) == (str(folders.base), str(folders.twig))
    assert (args.dtype, args.pruner) == ("bfloat16", "fastv")
    assert (args.attention, args.graphs) == ("eager", "off")


def test_a_chat_draws_as_the_file_says(file, capsys, monkeypatch):
    run = RunSpec.from_file(file)
    drawn = run.generation.replace(do_sample=True, seed=3, temperature=2.0, stop=("picture",))
    file.write_text(run.replace(generation=drawn).to_yaml())
    said = []
    generate = TwigModel.generate

    def watched(model, **options):
        names = ("seed", "temperature", "budget", "max_new_tokens", "stop_strings")
        said.append([options.get(name) for name in names])
        return generate(model, **options)

    lines = iter(["what is there ?", "/quit"] * 2)
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr(TwigModel, "generate", watched)
    assert main(["chat", "--run", str(file)]) == 0
    assert main(["chat", "--base", run.base]) == 0
    assert capsys.readouterr().err.count("error") == 0
    assert said == [[3, 2.0, 0.5, 6, ["picture"]], [None, None, None, 512, None]]


def test_a_server_takes_what_holds_for_all_requests(file):
    def given(*words):
        return _given(parse(["serve", "--run", "x", *words], **defaults_of(str(file)))[1])

    found = given("--budget", "16")
    assert (found["budget"], found["drafter"].kind, found["max_tokens"]) == (16, "plain", 6)


def test_a_server_refuses_what_it_has_no_setting_for(file, capsys):
    run = RunSpec.from_file(file)
    file.write_text(run.replace(generation=run.generation.replace(wipe_layer=4)).to_yaml())
    assert main(["serve", "--run", str(file)]) == 2
    assert "generation.wipe_layer is no setting of a server" in capsys.readouterr().err


def test_a_twig_alone_names_its_base(folders, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(RunSpec(twig=str(folders.twig)).to_json())
    found = answered(capsys, "--run", path, "--image", folders.picture, *ASK)
    assert found["stats"]["drafted_tokens"] > 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("twig: {base: b}", "the twig is one to grow"),
        ("generation: {budget: 1}", "neither base nor twig is named"),
        ("base: b\nrun: 1", "unknown field 'run'"),
    ],
)
def test_a_file_that_cannot_be_used_ends_on_one_line(text, told, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(text)
    assert main(["generate", "--run", str(tmp_path / "run.yaml"), *ASK]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_model_is_what_its_spec_says(file, folders):
    run = RunSpec.from_file(file)
    model = TwigModel.from_spec(run)
    assert (model.attention, model.batches.mode, model.dtype) == ("eager", "off", torch.float32)
    inputs = llava_inputs([(3, 1, 2)])
    known = TwigModel.from_pretrained(folders.base, twig=folders.twig)
    options = run.generation.options()
    assert torch.equal(model.generate(**inputs, **options), known.generate(**inputs, **options))
    rounded = run.replace(runtime=run.runtime.replace(twig_weights="int8"))
    assert is_quantised_twig(TwigModel.from_spec(rounded).twig)
    alone = TwigModel.from_spec(run.replace(base=None))
    assert alone.twig.spec == model.twig.spec == known.twig.spec
    assert TwigModel.from_spec(run.replace(twig=None)).twig is None


def test_a_twig_to_grow_is_grown(folders):
    grown = {"base": str(folders.base), "exit_layer": 3, "depth": 1}
    run = RunSpec.parse({"twig": grown, "runtime": {"twig_weights": "int8"}})
    model = TwigModel.from_spec(run)
    assert (model.twig.spec.exit_layer, model.twig.spec.depth) == (3, 1)
    assert is_quantised_twig(model.twig)
    elsewhere = run.replace(twig=run.twig.replace(base="nowhere"), base=str(folders.base))
    assert TwigModel.from_spec(elsewhere).twig.spec.exit_layer == 3


def test_a_base_that_a_twig_names_has_the_twigs_revision(monkeypatch):
    asked = []

    def load(base, twig, *, revision, **_):
        asked.append((base, twig, revision))
        raise InterruptedError

    monkeypatch.setattr(TwigModel, "from_pretrained", load)
    run = RunSpec.parse({"twig": {"base": "b", "revision": "r"}})
    for each in (run, run.replace(base="other")):
        with pytest.raises(InterruptedError):
            TwigModel.from_spec(each)
    assert asked == [("b", None, "r"), ("other", None, None)]


def test_the_built_in_base_has_no_twig_that_the_file_does_not_name(tmp_path):
    (tmp_path / "run.yaml").write_text("base: demo")
    assert defaults_of(str(tmp_path / "run.yaml"))["twig"] == "none"


def test_what_a_runtime_asks_for_in_vain_is_refused(folders):
    run = RunSpec.parse({"base": str(folders.base), "runtime": {"attention": "flash"}})
    with pytest.raises(CapabilityError, match="CUDA"):
        TwigModel.from_spec(run)
    with pytest.raises(SpecError, match="neither base nor twig"):
        RunSpec()
