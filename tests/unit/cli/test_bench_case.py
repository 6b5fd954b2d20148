"""The user's own prompts and pictures, as ``twigkit bench`` reads and measures them."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest

from twigkit.bench import case
from twigkit.bench.case import case_methods
from twigkit.cli import bench
from twigkit.cli.bench_case import DESCRIBE, read_prompts, wanted
from twigkit.cli.main import main
from twigkit.errors import InputError


def parsed(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def pictures(folders, tmp_path):
    """A folder of two pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.PNG"):
        shutil.copy(folders.picture, folder / name)
    (folder / "notes.md").write_text("no picture")
    return folder


def test_which_options_are_about_ones_own_case():
    assert not wanted(parsed("--quick", "--prompts", 2))
    assert wanted(parsed("--prompts", "mine.jsonl"))
    assert wanted(parsed("--lengths", 8, 16))
    assert wanted(parsed("--drafters", "ssd"))


def test_a_jsonl_file_names_its_pictures(tmp_path, pictures):
    file = tmp_path / "mine.jsonl"
    lines = [{"prompt": "what ?", "image": "pictures/a.png"}, {"question": "why ?"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert read_prompts(parsed("--prompts", file)) == [
        ("what ?", (str(pictures / "a.png"),)), ("why ?", ()),
    ]  # fmt: skip
    assert len(read_prompts(parsed("--prompts", file, "--limit", 1))) == 1


def test_pictures_of_a_file_may_start_from_elsewhere(tmp_path, pictures):
    file = tmp_path / "prompts" / "mine.jsonl"
    file.parent.mkdir()
    file.write_text(json.dumps({"prompt": "what ?", "image": "a.png"}))
    asked = read_prompts(parsed("--prompts", file, "--images", pictures))
    assert asked == [("what ?", (str(pictures / "a.png"),))]


def test_a_folder_of_texts_takes_the_pictures_beside_them(pictures):
    (pictures / "a.txt").write_text("what ?\n")
    (pictures / "c.txt").write_text("why ?")
    assert read_prompts(parsed("--prompts", pictures)) == [
        ("what ?", (str(pictures / "a.png"),)), ("why ?", ()),
    ]  # fmt: skip


def test_prompts_and_pictures_take_turns(tmp_path, pictures):
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": text}) for text in ("one", "two", "three")))
    asked = read_prompts(parsed("--prompts", file, "--images", pictures))
    assert [text for text, _ in asked] == ["one", "two", "three"]
    names = [found[0].rsplit("/", 1)[1] for _, found in asked]
    assert names == ["a.png", "b.PNG", "a.png"]
    alone = read_prompts(parsed("--images", pictures / "a.png", pictures))
    assert [text for text, _ in alone] == [DESCRIBE] * 3


def test_what_cannot_be_read_is_refused(tmp_path, capsys):
    with pytest.raises(InputError, match="neither a number nor a file"):
        read_prompts(parsed("--prompts", tmp_path / "none"))
    with pytest.raises(InputError, match="holds no prompts"):
        read_prompts(parsed("--prompts", tmp_path))
    with pytest.raises(InputError, match="there is no"):
        read_prompts(parsed("--images", tmp_path / "none"))
    for words in (["--lengths", "0"], ["--lengths", "4", "--control", "1"]):
        assert main(["bench", *words, "--out", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--drafters", "ssdd"], "unknown drafter 'ssdd'"),
        (["--pruners", "ttpp"], "unknown pruner 'ttpp'"),
        (["--budgets", "7.5"], "got 7.5"),
        (["--budgets", "1/9", "0.1111"], "--budgets has 11.1% twice"),
        (["--drafters", "ssd", "ssd"], "--drafters has ssd twice"),
        (["--lengths", "4", "4"], "--lengths has 4 twice"),
        (["--lengths", "4", "--limit", "0"], "--limit is 0"),
        (["--limit", "1"], "--limit takes the first of your own prompts"),
        (["--sweeps", "T"], "--sweeps is about a sweep"),
        (["--lengths", "4", "--steps", "1"], "--steps is about a sweep"),
        (["--tiny"], "--tiny is about the shape of a preset"),
        (["sweep", "--drafters", "ssd"], "--drafters is about your own prompts"),
    ],
)
def test_what_would_not_be_measured_is_refused_before_anything_is(words, said, tmp_path, capsys):
    assert main(["bench", *words, "--base", "nowhere", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_a_base_and_a_twig_are_measured_on_ones_own_prompts(
    folders, pictures, tmp_path, capsys, monkeypatch
):
    def few(*given):
        return [method for method in case_methods(*given) if not method.compiled]

    monkeypatch.setattr(case, "case_methods", few)  # a compiler may take a minute
    (pictures / "a.txt").write_text("what is in the picture ?")
    out = tmp_path / "out"
    words = ["--prompts", pictures, "--lengths", 4, "--budgets", "1/2", "--drafters", "ssd"]
    words += ["--rounds", 1, "--threads", 1, "--out", out, *folders.model]
    assert main(["bench", *map(str, words)]) == 0
    data = json.loads((out / "bench.json").read_text())
    (cell,) = data["cells"]
    names = [row["method"]["name"] for row in cell["rows"]]
    assert {"Hugging Face, dynamic cache", "twigkit plain", "ssd", "ttp at 50%, ssd"} <= set(names)
    assert "Hugging Face, assistant model" in cell["failed"]
    assert data["conditions"]["from"] == "your prompts"
    assert "4 new tokens, one prompt at a time" in capsys.readouterr().out
    assert main(["bench", "--compare", str(out), str(out)]) == 0
    assert "one round, no spread" in capsys.readouterr().out
