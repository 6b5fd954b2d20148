"""``twigkit train`` and ``twigkit grow``: options, dry run, errors on one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.support.processors import picture
from twigkit.backbone import few_rows
from twigkit.cli.main import main
from twigkit.cli.train import read
from twigkit.errors import InputError, SpecError
from twigkit.training.dry_run import dry_run
from twigkit.training.loop.optimiser_step import OptimiserStep

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(folders, tmp_path):
    """A training spec for the tiny base, with its data."""
    data = tmp_path / "data"
    data.mkdir()
    picture().save(data / "p.png")
    turns = [
        {"from": "human", "value": "<image>\nwhat is there"},
        {"from": "gpt", "value": "a red"},
    ]
    records = [{"id": f"r{i}", "image": "p.png", "conversations": turns} for i in range(6)]
    (data / "train.json").write_text(json.dumps(records))
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATE)
    spec = {
        "twig": {"base": str(folders.base), "exit_layer": 2, "depth": 1},
        "data": {"path": str(data / "train.json"), "template": str(template), "workers": 0},
        "objective": {"kind": "distillation", "chunk": 4},
        "precision": "fp32",
        "batch": 4,
        "micro_batch": 2,
        "out": str(tmp_path / "twig"),
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in m['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }} "
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def test_a_dry_run_loads_measures_and_writes_nothing(file, capsys):
    before = sorted(file.parent.rglob("*"))
    assert main(["train", str(file), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert sorted(file.parent.rglob("*")) == before
    told = {line.split("  ")[0]: " ".join(line.split()) for line in out.splitlines()}
    assert "8 layers" in told["base"]
    assert "from the base itself" in told["base"]
    assert told["twig"].startswith("twig 1 layers after layer 2, heads lm")
    assert told["samples"] == "samples 6 to train on, 0 held out"
    assert told["batch"].startswith("batch 4 samples: 2 micro-batches of 2 on each of 1 process")
    assert told["steps"] == "steps 2"
    assert "of them visual" in told["micro-batch"]
    assert told["micro-batch"].split()[-4] == "32"
    assert told["time per step"].startswith("time per step about ")
    assert "whole run" in told
    for name in ("weights of the base", "gradients", "moments of the optimiser",
                 "kept for the backward pass", "base at work"):  # fmt: skip
        assert f"  {name}" in out


def test_a_dry_run_measures_samples_of_all_lengths(file, monkeypatch):
    """Micro-batches of a step come sorted by length: the first ones stand for none of the rest."""
    path = file.parent / "data" / "train.json"
    records = json.loads(path.read_text())
    for record in records[:3]:
        del record["image"]
        record["conversations"][0]["value"] = "what is there"
    path.write_text(json.dumps(records))
    monkeypatch.setattr(few_rows, "_switch", [True])
    taken, considered = [], set()
    real = OptimiserStep.take

    def take(self, step, batches, *given):
        with torch.no_grad():
            considered.add(few_rows.few_rows(torch.ones(4, 8)))
        taken.append([sum(batch.counts()["visual"] for batch in batches), len(batches)])
        return real(self, step, batches, *given)

    monkeypatch.setattr(OptimiserStep, "take", take)
    found = dry_run(read(str(file), ["batch=6", "micro_batch=1"]))
    assert (found.size.rows, found.size.visual) == (1, 16)
    assert taken == [[1, 1], [3, 5], [1, 1], [3, 5]]  # the longest, all, the middle one, all
    assert considered == {None}, "products are computed as in a run"


@pytest.mark.parametrize(("group", "which"), [("true", "longest"), ("false", "last")])
def test_a_micro_batch_is_called_the_longest_only_where_they_are_sorted(file, group, which, capsys):
    words = ["train", str(file), "--dry-run", "--no-timing", "--set", f"data.group={group}"]
    assert main(words) == 0
    assert f"  the {which} of a step has " in capsys.readouterr().out


def test_a_dry_run_without_timing_reads_the_configuration_alone(file, folders, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(folders.base, base)
    (base / "model.safetensors").unlink()
    words = ["train", str(file), "--dry-run", "--set", f"base={base}"]
    assert main([*words, "--no-timing"]) == 0
    out = capsys.readouterr().out
    assert "from its configuration" in out
    assert "unknown: only the configuration was read" in out
    assert main(words) == 2
    done = capsys.readouterr()
    assert "unknown: the base cannot be loaded" in done.out
    assert "twigkit: problem: the base cannot be loaded" in done.err


def test_a_dry_run_says_what_it_can_where_data_are_missing(file, capsys):
    assert main(["train", str(file), "--dry-run", "--set", "data.path=nowhere.json"]) == 2
    done = capsys.readouterr()
    assert "twigkit: problem: the data cannot be used: nowhere.json cannot be read" in done.err
    told = {line.split("  ")[0]: " ".join(line.split()) for line in done.out.splitlines()}
    assert told["samples"] == "samples unknown"
    assert told["steps"] == "steps unknown"
    assert "at most 4,096 tokens" in told["micro-batch"]


def test_a_spec_runs_no_function_that_is_not_allowed(file, tmp_path, capsys):
    spec = yaml.safe_load(file.read_text())
    proof = tmp_path / "proof"
    spec["data"] = {"source": "os:system", "options": {"command": f"touch {proof}"}}
    file.write_text(yaml.safe_dump(spec))
    assert main(["train", str(file), "--dry-run", "--no-timing"]) == 2
    assert "--allow-source os:system" in capsys.readouterr().err
    assert main(["train", str(file)]) == 2
    assert not proof.exists()
    words = ["train", str(file), "--dry-run", "--no-timing", "--allow-source", "os:system"]
    assert main(words) == 2
    assert "returned a int; expected a sequence" in capsys.readouterr().err
    assert proof.exists()


def test_well_known_bases_are_known_by_their_presets(file, capsys):
    change = "twig={base: llava-hf/llava-1.5-7b-hf, heads: {lm: lm, pruning: pruning}}"
    words = ["train", str(file), "--dry-run", "--no-timing", "--set", change]
    assert main([*words, "--set", "data.path=nowhere.json"]) == 2
    out = capsys.readouterr().out
    assert "32 layers, 7,063,427,072 parameters of 2 bytes (from the preset llava-1.5-7b)" in out


def test_training_writes_the_twig_and_says_so(file, capsys):
    assert main(["train", str(file), "--set", "steps=1"]) == 0
    out = capsys.readouterr().out
    folder = file.parent / "twig"
    assert (folder / "twig.json").exists()
    assert f"{folder}: a twig trained for 1 step" in out


def test_a_home_folder_is_one_place_for_run_and_twig(file, folders, tmp_path, monkeypatch, capsys):
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    shutil.copytree(file.parent / "data", home / "data")
    shutil.copy(file.parent / "chat.jinja", home)
    shutil.copytree(folders.base, home / "base")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    words = ["train", str(file), "--set", "steps=1", "--out", "~/twig"]
    for change in ("data.path=~/data/train.json", "data.template=~/chat.jinja", "base=~/base"):
        words += ["--set", change]
    assert main([*words, "--dry-run", "--no-timing"]) == 0, capsys.readouterr().err
    assert main(words) == 0, capsys.readouterr().err
    assert (home / "twig" / "twig.json").is_file()
    assert (home / "twig" / "training" / "log.jsonl").is_file()
    assert not any(here.iterdir())


@pytest.mark.parametrize("what", ["answer", "order", "template"])
def test_a_run_goes_on_with_the_same_data_only(file, what, capsys):
    words = ["train", str(file), "--set", "steps=1"]
    assert main(words) == 0
    weights = (file.parent / "twig" / "model.safetensors").read_bytes()
    path = file.parent / "data" / "train.json"
    records = json.loads(path.read_text())
    if what == "answer":
        records[3]["conversations"][1]["value"] = "a blue"
    path.write_text(json.dumps(records[::-1] if what == "order" else records))
    if what == "template":
        (file.parent / "chat.jinja").write_text(TEMPLATE.replace("USER:", "Q:"))
    capsys.readouterr()
    assert main(words) == 2
    name = "chat template" if what == "template" else "records"
    assert f"the data's digest of the {name} was '" in capsys.readouterr().err
    assert (file.parent / "twig" / "model.safetensors").read_bytes() == weights


def test_fields_are_changed_by_their_path(file):
    spec = read(str(file), ["data.workers=3", "optimiser.rate=2e-5", "trackers=[a, b]"], "there")
    assert (spec.data.workers, spec.optimiser.rate) == (3, 2e-5)
    assert (spec.trackers, spec.out) == (("a", "b"), "there")
    assert spec.objective.chunk == 4
    other = read(str(file), ["objective.kind=reinforcement", "objective.group=8"])
    assert (other.objective.kind, other.objective.group) == ("reinforcement", 8)
    assert read(str(file), ["objective=reinforcement"]).objective.group == 32
    assert read(str(file), ["twig=folder"]).twig == "folder"


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ("workers", InputError, "FIELD=VALUE"),
        ("=3", InputError, "FIELD=VALUE"),
        ("data.workers=[", InputError, "not valid YAML"),
        ("steps=2020-99-99", InputError, "not valid YAML"),
        ('steps=!!float "x"', InputError, "not valid YAML"),
        ("steps=" + "[" * 3000, InputError, "not valid YAML"),
        ("objective.kind=[a]", SpecError, "a mapping with 'kind'"),
        ("twig.depth=0x" + "f" * 6000, InputError, "6002 characters"),
        ("data.wrokers=3", SpecError, "did you mean 'workers'"),
        ("dat.workers=3", SpecError, "no field 'dat'"),
        ("seed.x=3", SpecError, "no field 'seed'"),
        ("batch=3", SpecError, "does not split"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(file, change, kind, told):
    with pytest.raises(kind, match=told):
        read(str(file), [change])


def test_the_built_in_model_goes_by_its_name(file):
    spec = read(str(file), ["twig={base: demo}"])
    assert Path(spec.base).name == "base"
    assert spec.twig.base == "demo"
    spec = read(str(file), ["twig=demo"])
    assert Path(spec.twig).name == "twig"
    assert Path(spec.base).name == "base"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["missing.yaml"], "missing.yaml: cannot be read"),
        (["SPEC", "--no-timing"], "--no-timing belongs to --dry-run"),
        (["SPEC", "--set", "batch=x"], "TrainingSpec.batch"),
        (["SPEC", "--set", "micro_batch=4", "--set", "data.path=no.json"], "no.json cannot be"),
        (["SPEC", "--set", "data.template=no.jinja"], "no.jinja cannot be read"),
        (["SPEC", "--set", "twig.base=nowhere/at/all"], "nowhere/at/all"),
        (["SPEC", "--out", "SPEC"], "is a file; name a folder with --out"),
        (["SPEC", "--set", "data.source=no.such:thing"], "--allow-source no.such:thing"),
        (
            ["SPEC", "--set", "data.source=no.such:thing", "--allow-source", "no.such:thing"],
            "cannot be found",
        ),
    ],
)
def test_errors_are_one_line(file, words, told, capsys):
    words = [str(file) if word == "SPEC" else word for word in words]
    assert main(["train", *words]) == 2
    done = capsys.readouterr()
    assert done.err.startswith("twigkit: error: ")
    assert done.err.count("\n") == 1
    assert told in done.err


def test_a_twig_is_grown_from_options_or_a_file(folders, tmp_path, capsys):
    base = str(folders.base)
    words = ["grow", "--base", base, "--exit-layer", "1", "--depth", "2", "--head", "lm"]
    assert main([*words, "--head", "pruning", "--out", str(tmp_path / "one")]) == 0
    assert "an untrained twig of 2 layers on layer 1" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "one" / "twig.json").read_text())
    assert set(manifest["spec"]["heads"]) == {"lm", "pruning"}
    assert "Untrained." in (tmp_path / "one" / "README.md").read_text()
    path = tmp_path / "twig.yaml"
    path.write_text(yaml.safe_dump({"base": base, "depth": 3, "init": "random"}))
    for name, extra in (("two", []), ("three", []), ("four", ["--seed", "1"])):
        words = ["grow", str(path), "--depth", "1", "--out", str(tmp_path / name), *extra]
        assert main(words) == 0
    two, three, four = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("two", "three", "four")
    )
    assert two == three != four
    assert json.loads((tmp_path / "two" / "twig.json").read_text())["spec"]["depth"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "a base with --base"),
        (["--base", "BASE", "--depth", "9"], "exit_layer 2 plus depth 9"),
        (["--base", "BASE", "--head", "nose"], "unknown head 'nose'"),
        (["--base", "TWIG"], "is a twig, no base model; name the base that it grew on, BASE"),
        (["missing.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_grown_is_said(folders, tmp_path, words, told, capsys):
    places = {"BASE": str(folders.base), "TWIG": str(folders.twig)}
    words = [places.get(word, word) for word in words]
    assert main(["grow", *words, "--out", str(tmp_path / "x")]) == 2
    assert told.replace("BASE", places["BASE"]) in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_grow_replaces_a_twig_only_by_force(folders, tmp_path, capsys):
    words = ["grow", "--base", str(folders.base), "--depth", "1", "--out", str(tmp_path / "twig")]
    assert main(words) == 0
    manifest = tmp_path / "twig" / "twig.json"
    before = manifest.read_bytes()
    (tmp_path / "twig" / "notes.txt").write_text("kept")
    again = ["--depth", "2", "--out", str(tmp_path / "twig")]
    capsys.readouterr()
    assert main(["grow", "--base", "/no/such/base", *again]) == 2  # before any base is loaded
    assert "--force" in capsys.readouterr().err
    assert main(["grow", "--base", str(folders.base), *again, "--force"]) == 0
    assert manifest.read_bytes() != before
    assert (tmp_path / "twig" / "notes.txt").read_text() == "kept"
