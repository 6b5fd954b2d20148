"""The whole command on a tiny model, and what a second call leaves alone."""

from __future__ import annotations

import json

from twigkit.demo.language.__main__ import main


def test_the_command_makes_and_measures_a_twig_and_goes_on(chat_base, tmp_path, capsys):
    sizes = "--prompts 10 --held-out 10 --answer-tokens 8 --exit-layer 3 --rows 30 --offsets 2"
    sizes += " --steps 2 --per-kind 1 --tokens 5"
    places = ["--work", str(tmp_path / "work"), "--base", str(chat_base)]
    command = [*places, *sizes.split(), "--out", str(tmp_path)]
    main(command)
    shown = capsys.readouterr().out
    data = json.loads((tmp_path / "language.json").read_text())
    assert data["prompts"] == 10
    assert data["training"]["steps"] == 2
    assert {row["same"] for row in data["rows"]} == {10}
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(data["rows"])
    assert table[2].startswith("| Hugging Face generate |")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.safetensors")}
    main([*command, "--stages", "measure"])
    again = json.loads((tmp_path / "language.json").read_text())
    assert again["rows"] == data["rows"]  # nothing was timed anew
    assert files
    assert all(path.stat().st_mtime_ns == then for path, then in files.items())
