"""``twigkit bench sweep``: what it refuses, and that it goes on where it was stopped."""

from __future__ import annotations

import json

import pytest

from twigkit.cli.main import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sweeps", "Z"], "there is no sweep of 'Z'"),
        (["--steps", "0"], "--steps is 0"),
        (["--twig", "none"], "trains twigs of its own"),
    ],
)
def test_what_cannot_be_swept_is_refused(words, said, tmp_path, capsys):
    assert main(["bench", "sweep", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_a_cell_is_trained_once_and_the_table_says_how_small_it_was(tmp_path, capsys):
    words = ["bench", "sweep", "--quick", "--limit", "1", "--steps", "1", "--questions", "2"]
    words += ["--threads", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    first = json.loads((tmp_path / "sweep.json").read_text())
    assert [cell["name"] for cell in first["cells"]] == ["score: layer K"]
    assert "1 steps of stage 1" in capsys.readouterr().out
    trained = (next((tmp_path / "twigs").iterdir()) / "model.safetensors").stat().st_mtime_ns
    assert main(words) == 0
    assert json.loads((tmp_path / "sweep.json").read_text())["cells"] == first["cells"]
    again = (next((tmp_path / "twigs").iterdir()) / "model.safetensors").stat().st_mtime_ns
    assert again == trained
    assert main([*words, "--questions", "3"]) == 2
    assert "another size" in capsys.readouterr().err
