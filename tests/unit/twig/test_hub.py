"""Twigs on a stand-in for the Hub, through huggingface_hub's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub_server import TOKEN, hub_server
from tests.support.tiny import tiny_llava
from twigkit import CheckpointError, TwigModel, TwigSpec
from twigkit.cli.main import main
from twigkit.twig.hub import FILES, find_twig, locate, pull, push


@pytest.fixture
def hub():
    with hub_server() as made:
        yield made


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava(layers=6))
    made.grow(TwigSpec(base="org/base", exit_layer=2, depth=1))
    return made


RESULT = {"budget": 64, "relative_accuracy": 97.7, "relative_speed": 197, "data": "MM-Vet"}


def test_a_twig_is_pushed_and_comes_back(model, hub, tmp_path):
    url = model.push_to_hub(
        "org/twig", results=[RESULT], licence="apache-2.0", token=TOKEN, endpoint=hub.endpoint
    )
    assert url.startswith(f"{hub.endpoint}/org/twig/commit/")
    held = hub.repositories["org/twig"]
    assert set(held.commits[held.refs["main"]]) == {*FILES, ".gitattributes"}
    card = held.commits[held.refs["main"]]["README.md"].decode()
    assert "license: apache-2.0" in card
    assert "base_model: org/base" in card
    assert "| 64 | 97.7% | 197.0% |" in card
    back = pull("org/twig", tmp_path / "twig", endpoint=hub.endpoint)
    assert (back / "model.safetensors").read_bytes() == held.commits[held.refs["main"]][
        "model.safetensors"
    ]
    loaded = TwigModel.from_pretrained(tiny_llava(layers=6), twig=back)
    assert loaded.twig.spec == model.twig.spec


def test_only_the_twig_goes_up_from_a_folder_with_more(model, hub, tmp_path):
    folder = model.save_pretrained(tmp_path / "run")
    (folder / "secret.txt").write_text("no")
    push(folder, "org/run", private=True, token=TOKEN, endpoint=hub.endpoint, revision="v2")
    held = hub.repositories["org/run"]
    assert held.private
    assert "secret.txt" not in held.commits[held.refs["v2"]]
    assert "twig.json" in held.commits[held.refs["v2"]]
    assert "twig.json" not in held.commits[held.refs["main"]]


def test_a_private_twig_takes_a_token_and_is_refused_on_one_line_without(model, hub, tmp_path):
    hub.add("org/twig", model.save_pretrained(tmp_path / "twig"), private=True)
    options = {"cache_dir": tmp_path / "cache", "endpoint": hub.endpoint}
    with pytest.raises(CheckpointError, match="neither a folder nor a twig that the Hub gives"):
        locate("org/twig", token=False, **options)
    assert find_twig("org/twig", token=False, **options) is None
    found = find_twig("org/twig", token=TOKEN, **options)
    assert found.spec.base == "org/base"
    assert not [line for line in hub.asked if line.endswith("model.safetensors")]
    folder = locate("org/twig", token=TOKEN, **options)
    assert (folder / "model.safetensors").is_file()
    asked = len(hub.asked)
    assert locate("org/twig", local_files_only=True, **options) == folder
    assert len(hub.asked) == asked


def test_revision_and_subfolder_say_which_twig(model, hub, tmp_path):
    held = hub.add("org/twigs", model.save_pretrained(tmp_path / "twig"), inside="small/")
    held.commit({"small/twig.json": b"{}"}, "broken")
    options = {"cache_dir": tmp_path / "cache", "endpoint": hub.endpoint}
    assert locate("org/twigs", subfolder="small", **options).name == "small"
    assert find_twig("org/twigs", subfolder="small", **options).spec.depth == 1
    assert find_twig("org/twigs", **options) is None
    with pytest.raises(CheckpointError, match="has format None"):
        find_twig("org/twigs", "broken", subfolder="small", **options)


def test_the_hubs_refusal_is_one_line(model, hub, tmp_path):
    folder = model.save_pretrained(tmp_path / "twig")
    with pytest.raises(CheckpointError, match=r"the Hub does not take .* as org/twig: .*401"):
        push(folder, "org/twig", token="hf_wrong", endpoint=hub.endpoint)
    with pytest.raises(CheckpointError, match=r"holds no twig\.json"):
        push(tmp_path, "org/twig", token=TOKEN, endpoint=hub.endpoint)


def test_push_and_pull_on_the_command_line(model, hub, tmp_path, capsys):
    folder = model.save_pretrained(tmp_path / "twig")
    where = ["--endpoint", hub.endpoint, "--token", TOKEN]
    assert main(["push", str(folder), "org/twig", *where]) == 0
    assert f"{hub.endpoint}/org/twig/commit/" in capsys.readouterr().out
    again = ["push", str(folder), "org/twig", "--token", TOKEN, "--revision", "main", *where]
    assert main(again) == 0  # to a repository that is there
    capsys.readouterr()
    assert main(["pull", "org/twig", "--out", str(tmp_path / "back"), *where]) == 0
    assert str(tmp_path / "back") in capsys.readouterr().out
    assert json.loads((tmp_path / "back" / "twig.json").read_text())["spec"]["base"] == "org/base"
    assert main(["pull", "org/other", "--out", str(tmp_path / "x"), *where]) == 2
    assert "the Hub gives no twig org/other" in capsys.readouterr().err


def test_a_twig_is_pulled_again_into_the_folder_of_its_name(model, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = hub.add("org/twig", model.save_pretrained(tmp_path / "twig"))
    pull("org/twig", "org/twig", endpoint=hub.endpoint)
    held.commit({"README.md": b"another card"})
    pull("org/twig", "org/twig", endpoint=hub.endpoint)
    assert Path("org/twig/README.md").read_bytes() == b"another card"
    held.commit({"README.md": b"a third card"})
    pull("org/twig", "org/twig", endpoint=hub.endpoint, local_files_only=True)
    assert Path("org/twig/README.md").read_bytes() == b"another card"
    with pytest.raises(CheckpointError, match="the Hub gives no twig twig"):
        pull("twig", "elsewhere", endpoint=hub.endpoint)


def test_a_hub_that_is_down_is_told_on_one_line(model, tmp_path, capsys):
    folder = str(model.save_pretrained(tmp_path / "twig"))
    nowhere = ["--endpoint", "http://127.0.0.1:9", "--token", TOKEN]
    assert main(["push", folder, "org/twig", *nowhere]) == 2
    assert "the Hub does not take" in capsys.readouterr().err
    for out in ("back", "twig"):  # where nothing is, and where an older one lies
        assert main(["pull", "org/twig", "--out", str(tmp_path / out), *nowhere]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_id_of_a_twig_alone_finds_its_base(folders, hub, tmp_path):
    """In a process of its own, because the client reads its address when it is imported."""
    manifest = json.loads((Path(folders.twig) / "twig.json").read_text())
    manifest["spec"]["base"] = "org/base"
    hub.add("org/base", Path(folders.base))
    hub.add("org/twig", Path(folders.twig))
    hub.repositories["org/twig"].commit({"twig.json": json.dumps(manifest).encode()})
    code = (
        "from twigkit import TwigModel\n"
        f"model = TwigModel.from_pretrained('org/twig', cache_dir={str(tmp_path / 'cache')!r})\n"
        "print(model.twig.spec.base, type(model.base).__name__)\n"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["org/base", "LlavaForConditionalGeneration"], done.stderr
