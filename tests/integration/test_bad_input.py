"""What cannot be used is said in one line, with exit status 2 and nothing left behind."""

import json
import os
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import write_base
from twigkit import TwigkitError, TwigModel, TwigSpec
from twigkit.cli.main import main

QUESTION = ["--prompt", "what is in the picture ?", "--max-new-tokens", "3"]


def cut(path, size):
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[:size])


def edit_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_weights(path, edit):
    state = load_file(path)
    edit(state)
    save_file(state, path, metadata={"format": "pt"})


UP = "model.language_model.layers.0.mlp.up_proj.weight"


def find_up(state):
    """The name that the file gives to the weight."""
    return next(name for name in state if name.endswith("layers.0.mlp.up_proj.weight"))


def drop_up(state):
    state.pop(find_up(state))


def shorten_up(state):
    state[find_up(state)] = state[find_up(state)][:50].clone()


class Desk:
    """Copies of a user's folders, to be spoilt."""

    def __init__(self, folders, path):
        self.path = path
        self.base = shutil.copytree(folders.base, path / "base")
        self.twig = shutil.copytree(folders.twig, path / "twig")
        self.picture = shutil.copy(folders.picture, path / "picture.png")

    def words(self, *more):
        words = ["generate", "--base", self.base, "--twig", self.twig, *QUESTION]
        return [str(word) for word in (*words, "--image", self.picture, *more)]

    def without_picture(self, *more):
        words = self.words(*more)
        at = words.index("--image")
        return words[:at] + words[at + 2 :]

    def other_base(self):
        return write_base(self.path / "other", seed=5)


@pytest.fixture
def desk(folders, tmp_path):
    return Desk(folders, tmp_path)


def refused(words, capsys):
    """Run a command that must be refused; give the one line that it says."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("twigkit: error: ")
    assert "Traceback" not in line
    return line


def test_what_the_cases_spoil_works_when_it_is_whole(desk, capsys):
    assert main(desk.words("--budget", "8")) == 0
    answer, stats = capsys.readouterr().out.splitlines()
    assert answer
    assert "16, 8 after layer 2" in stats


def test_a_budget_may_be_a_ratio(desk, capsys):
    assert main(desk.words("--budget", "1/2")) == 0
    assert "16, 8 after layer 2" in capsys.readouterr().out


BASES = {
    "not there": (shutil.rmtree, "there is no folder"),
    "empty": (lambda f: [p.unlink() for p in f.iterdir()], "cannot load the base model"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    "weights cut off": (lambda f: cut(f / "model.safetensors", 5000), "cannot load the base model"),
    "weights are text": (
        lambda f: (f / "model.safetensors").write_text("hello"),
        "cannot load the base model",
    ),
    "a weight is missing": (
        lambda f: edit_weights(f / "model.safetensors", drop_up),
        f"{UP} is missing",
    ),
    "a weight has another shape": (
        lambda f: edit_weights(f / "model.safetensors", shorten_up),
        f"{UP} has shape [50, 64], expected [96, 64]",
    ),
    "config cut off": (lambda f: cut(f / "config.json", 30), "cannot load the base model"),
    "a family without adapter": (
        lambda f: (f / "config.json").write_text('{"model_type": "abacus"}'),
        "'abacus'",
    ),
    "a config that names another family": (
        lambda f: edit_json(f / "config.json", model_type="bert"),
        "cannot load the base model",
    ),
    "a config that is a list": (
        lambda f: (f / "config.json").write_text("[1, 2]"),
        "cannot load the base model",
    ),
    "a part of the config that is no mapping": (
        lambda f: edit_json(f / "config.json", text_config=[3]),
        "text_config in its config.json is [3], no mapping",
    ),
    "a width that is a word": (
        lambda f: edit_json(f / "config.json", vision_config={"hidden_size": "wide"}),
        "cannot load the base model",
    ),
    "a tokenizer of another kind": (
        lambda f: (f / "tokenizer.json").write_text('{"model": 7}'),
        "cannot load the processor",
    ),
    "no processor": (
        lambda f: [p.unlink() for p in f.glob("*") if p.name.startswith(("proc", "token"))],
        "cannot load the processor",
    ),
    "tokenizer cut off": (lambda f: cut(f / "tokenizer.json", 40), "cannot load the processor"),
}


@pytest.mark.parametrize("case", BASES)
def test_a_base_that_is_missing_or_damaged(case, desk, capsys):
    spoil, told = BASES[case]
    spoil(desk.base)
    assert told in refused(desk.words(), capsys)


@pytest.mark.parametrize("case", [case for case in BASES if "config" in case])
def test_a_base_that_cannot_be_inspected(case, desk, capsys):
    BASES[case][0](desk.base)
    assert "cannot load the base model" in refused(["inspect", str(desk.base)], capsys)


TWIGS = {
    "not there": (shutil.rmtree, "there is no folder"),
    "no manifest": (lambda f: (f / "twig.json").unlink(), "holds no twig.json"),
    "manifest cut off": (lambda f: cut(f / "twig.json", 50), "twig.json is damaged"),
    "of another format": (lambda f: edit_json(f / "twig.json", format=99), "has format 99"),
    "unknown head": (
        lambda f: edit_json(
            f / "twig.json", spec={"base": "x", "depth": 2, "heads": {"lm": {"kind": "nose"}}}
        ),
        "unknown head 'nose'; known: ",
    ),
    "exit layer out of range": (
        lambda f: edit_json(f / "twig.json", spec={"base": "x", "exit_layer": 7, "depth": 2}),
        "the base has 8",
    ),
    "exit layer below zero": (
        lambda f: edit_json(f / "twig.json", spec={"base": "x", "exit_layer": -1, "depth": 2}),
        "exit_layer",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors"),
    "weights cut off": (lambda f: cut(f / "model.safetensors", 3000), "is damaged"),
    "a weight is missing": (
        lambda f: (
            edit_weights(f / "model.safetensors", lambda s: s.pop("norm.weight")),
            edit_json(f / "twig.json", checksums={}),
        ),
        "norm.weight is missing",
    ),
    "other weights": (
        lambda f: edit_weights(f / "model.safetensors", lambda s: s["norm.weight"].add_(1)),
        "its SHA-256 is",
    ),
}


@pytest.mark.parametrize("case", TWIGS)
def test_a_twig_that_is_missing_or_damaged(case, desk, capsys):
    spoil, told = TWIGS[case]
    spoil(desk.twig)
    assert told in refused(desk.words(), capsys)


def test_a_twig_for_another_base(desk, capsys):
    line = refused(desk.words("--base", desk.other_base()), capsys)
    assert "was grown on another base" in line
    assert "differ" in line


OPTIONS = {
    "unknown pruner": (["--budget", "8", "--pruner", "shears"], "unknown pruner 'shears'; known: "),
    "unknown drafter": (["--drafter", "poet"], "unknown drafter 'poet'; known: "),
    "unknown dtype": (["--dtype", "float4"], "invalid choice: 'float4'"),
    "budget below the floor": (["--budget", "3", "--strict"], "below the floor of 4"),
    "fraction below the floor": (["--budget", "0.1", "--strict"], "below the floor of 4"),
    "budget above what the wipe leaves": (["--budget", "13", "--strict"], "ask for 12 or less"),
    "budget above M": (["--budget", "17", "--strict"], "above the prompt's 16 visual tokens"),
    "budget of nothing": (["--budget", "0"], "got 0; expected a whole number of at least 1"),
    "budget beyond a fraction": (["--budget", "1.5"], "got 1.5; expected"),
    "budget that is a ratio by zero": (["--budget", "1/0"], "'1/0' is neither a count"),
    "budget that is a word": (["--budget", "few"], "'few' is neither a count"),
    "wipe layer above the depth": (["--budget", "8", "--wipe-layer", "9"], "the model's 8 layers"),
    "wipe layer at the exit": (["--budget", "8", "--wipe-layer", "2"], "after exit layer 2"),
    "wipe layer zero": (["--budget", "8", "--wipe-layer", "0"], "got 0; expected"),
    "no new tokens": (["--max-new-tokens", "0"], "max_new_tokens"),
    "empty prompt": (["--prompt", ""], "the prompt is empty"),
    "blank prompt": (["--prompt", "  \n "], "the prompt is empty"),
    "no image token": (["--raw", "--prompt", "what is there ?"], "the prompt has no image token"),
    "too few image tokens": (
        ["--raw", "--prompt", "<image> what ?", "--image", "{picture}"],
        "2 pictures given, but the prompt has 1 image token (<image>)",
    ),
    "too many image tokens": (
        ["--raw", "--prompt", "<image> <image> what ?"],
        "1 picture given, but the prompt has 2 image tokens",
    ),
    "an image token beside the template": (
        ["--prompt", "<image> what ?"],
        "1 picture given, but the prompt has 2 image tokens",
    ),
    "device that is not there": (["--device", "nowhere"], "cannot load the base model"),
    "stream and json": (["--stream", "--json"], "exclude each other"),
    "drafting without a twig": (["--twig", "none", "--drafter", "ssd"], "needs a twig"),
    "pruning without a twig": (["--twig", "none", "--budget", "8"], "scores with a twig"),
    "unknown option": (["--colour", "red"], "unrecognized arguments: --colour red"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_an_option_that_cannot_be_met(case, desk, capsys):
    words, told = OPTIONS[case]
    words = [word.replace("{picture}", str(desk.picture)) for word in words]
    assert told in refused(desk.words(*words), capsys)


def test_image_tokens_without_a_picture(desk, capsys):
    words = desk.without_picture("--raw", "--prompt", "<image> what is there ?")
    assert "0 pictures given, but the prompt has 1 image token" in refused(words, capsys)


def text_file(path):
    path.write_text("not a picture")


def folder(path):
    path.mkdir()


def half_png(path):
    Image.effect_noise((64, 64), 60).save(path, "PNG")
    cut(path, path.stat().st_size // 2)


def half_jpeg(path):
    Image.effect_noise((64, 64), 60).save(path, "JPEG")
    cut(path, path.stat().st_size // 2)


PICTURES = {
    "not there": (lambda path: None, "there is no file"),
    "a folder": (folder, "is a folder"),
    "text": (text_file, "is not a picture"),
    "empty": (lambda path: path.touch(), "is not a picture"),
    "half a PNG": (half_png, "it is damaged or incomplete"),
    "half a JPEG": (half_jpeg, "it is damaged or incomplete"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_file_that_is_no_whole_picture(case, desk, capsys):
    make, told = PICTURES[case]
    path = desk.path / "spoilt"
    make(path)
    line = refused(desk.words("--image", path), capsys)
    assert told in line
    assert "spoilt" in line


def test_a_traceback_comes_only_when_it_is_asked_for(desk):
    with pytest.raises(TwigkitError, match="below the floor"):
        main(["--debug", *desk.words("--budget", "3", "--strict")])


def test_an_exit_layer_out_of_range_grows_nothing(folders):
    model = TwigModel.from_pretrained(folders.base)
    with pytest.raises(TwigkitError, match="the base has 8 layers"):
        model.grow(TwigSpec(base="x", exit_layer=7, depth=2))
    assert model.twig is None


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_a_failed_report_leaves_nothing_behind(command, desk, capsys):
    (desk.twig / "twig.json").unlink()
    out = desk.path / "deep" / "out"
    words = [command, "--base", desk.base, "--twig", desk.twig, "--out", out]
    assert "holds no twig.json" in refused(words, capsys)
    assert not out.parent.exists()


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_a_report_never_replaces_a_file_by_a_folder(command, desk, capsys):
    words = [command, "--base", desk.base, "--twig", desk.twig, "--out", desk.picture]
    assert "is a file" in refused(words, capsys)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["demo", "--scenes", "0"], "--scenes is 0"),
        (["demo", "--budget", "0.5", "--drafter", "poet"], "unknown drafter 'poet'"),
        (["bench", "--rounds", "0"], "--rounds is 0"),
        (["bench", "--twig", "none"], "name one with --twig"),
    ],
)
def test_what_a_report_cannot_be_made_of(words, told, desk, capsys):
    out = desk.path / "out"
    words = [words[0], "--base", desk.base, "--twig", desk.twig, *words[1:], "--out", out]
    assert told in refused(words, capsys)
    assert not out.exists()


REPORTS = {
    "a folder that no system makes": (["--out", "/proc/there/is/none"], "cannot write"),
    "a name that is too long": (["--out", "x" * 300], "cannot write"),
    "a name with a zero byte": (["--out", "a\0b"], "cannot write"),
    "no name": (["--out", ""], "--out is empty"),
    "an answer without tokens": (["--max-new-tokens", "0"], "--max-new-tokens is 0"),
    "an answer beyond the context": (["--max-new-tokens", "256"], "less than the 256 tokens"),
}


@pytest.mark.parametrize("case", REPORTS)
@pytest.mark.parametrize("command", ["demo", "bench"])
def test_a_report_is_refused_before_the_long_run(command, case, desk, capsys, monkeypatch):
    words, told = REPORTS[case]
    monkeypatch.chdir(desk.path)
    before = sorted(desk.path.rglob("*"))
    words = [command, "--base", desk.base, "--twig", desk.twig, *words]
    assert told in refused(words, capsys)
    assert sorted(desk.path.rglob("*")) == before


TREES = {
    "another picture format": (["--out", "tree.xyz"], "name a .png or .jpg file"),
    "no format": (["--out", "tree"], "name a .png or .jpg file"),
    "a folder": (["--out", "folder.png"], "cannot write"),
    "an unknown drafter": (["--drafter", "poet"], "unknown drafter 'poet'"),
    "a drafter whose head is missing": (["--drafter", "medusa-tree"], "drafter 'medusa-tree' need"),
    "no twig": (["--twig", "none"], "drafter 'tree-ssd' needs a twig"),
    "a step that is not there": (["--step", "9"], "choose another with --step"),
    "an answer of one token": (["--max-new-tokens", "1"], "took 0 steps of drafting"),
}


@pytest.mark.parametrize("case", TREES)
def test_a_tree_that_cannot_be_drawn(case, desk, capsys, monkeypatch):
    words, told = TREES[case]
    monkeypatch.chdir(desk.path)
    (desk.path / "folder.png").mkdir()
    show = ["show", "tree", *desk.words()[1:]]
    assert told in refused([*show, *words], capsys)


def test_a_head_that_does_not_look_ahead_tunes_no_tree(desk, capsys):
    words = ["tune-tree", *desk.words()[1:]]
    assert "'medusa-tree' needs the head 'medusa'" in refused(words, capsys)
    told = refused([*words, "--ahead", "lm"], capsys)
    assert "the head 'lm' is a LmHead, which does not declare 'several-tokens'" in told


@pytest.mark.parametrize("words", [["new-plugin", "gadget"], ["families"]])
def test_what_cannot_be_written_is_told(words, desk, capsys):
    for place in ("/proc/x", desk.picture / "x", desk.path / ("x" * 300), "a\0b"):
        assert "cannot write" in refused([*words, "--out", place], capsys)
    assert not list(desk.path.glob(".*"))


def test_a_distribution_without_adapters(capsys):
    assert "no adapter comes from 'nope'" in refused(["families", "--distribution", "nope"], capsys)


def test_a_device_that_holds_nothing(desk, capsys):
    assert "which holds no weights" in refused(desk.words("--device", "meta"), capsys)


def test_an_empty_name_of_a_twig_is_not_taken_for_none(desk, capsys):
    assert "twig.json" in refused(desk.words("--twig", ""), capsys)


def test_the_demo_can_be_inspected(capsys):
    assert main(["inspect", "demo"]) == 0
    assert "32, 128 wide" in capsys.readouterr().out


@pytest.mark.parametrize("length", [300, 5000])
@pytest.mark.parametrize("option", ["--base", "--twig"])
def test_a_name_that_no_folder_can_have(option, length, desk, capsys):
    line = refused([*desk.words(), option, "x" * length], capsys)
    assert "a folder" in line


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_that_torch_does_not_take(seed, desk, capsys):
    words = ["grow", "--base", desk.base, "--out", desk.path / "new", f"--seed={seed}"]
    assert "64 bits" in refused(words, capsys)
    assert not (desk.path / "new").exists()


def test_weights_that_are_a_pickle_are_not_loaded(desk, capsys):
    path = desk.base / "model.safetensors"
    torch.save(load_file(path), desk.base / "pytorch_model.bin")
    path.unlink()
    assert "cannot load the base model" in refused(desk.words(), capsys)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json"])
def test_a_pipe_in_the_folder_of_a_base_is_not_waited_for(name, desk, capsys):
    (desk.base / name).unlink(missing_ok=True)
    os.mkfifo(desk.base / name)
    assert f"{name} is no regular file" in refused(desk.words(), capsys)


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_a_configuration_of_a_million_layers_is_refused_before_any_is_built(command, desk, capsys):
    path = desk.base / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["num_hidden_layers"] = 1_000_000
    path.write_text(json.dumps(config))
    words = desk.words() if command == "generate" else ["inspect", str(desk.base)]
    assert "says 1,000,000 layers, more than 1,000" in refused(words, capsys)


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{% if %}", "{{ nowhere.at.all }}"]
)
def test_a_chat_template_that_fails_is_one_line(template, desk, capsys):
    (desk.base / "chat_template.jinja").write_text(template)
    assert "chat template cannot render" in refused(desk.words(), capsys)
