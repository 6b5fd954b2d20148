"""The demo's accuracy under pruning, and its tables."""

import json

from twigkit.demo.recipe import accuracy


def test_the_demo_is_measured_by_every_pruner_of_a_twig(folders, tmp_path, capsys, monkeypatch):
    words = ["accuracy", "--base", folders.base, "--twig", f"tiny={folders.twig}", "--questions"]
    words += ["14", "--budgets", "0.5", "0.7", "--workers", "1", "--out", tmp_path]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    monkeypatch.setattr(accuracy, "relative_accuracy", lambda scores, reference: "ratio")
    accuracy.main()
    text = (tmp_path / "accuracy.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| tiny, random | ratio | ratio |" in text
    assert "| tiny, ttp | ratio | ratio |" in text
    assert "14 questions; the unpruned base answers" in text
    data = json.loads((tmp_path / "accuracy.json").read_text())
    assert data["conditions"]["dtype"] == "float32"
    assert len(data["kinds"]) == 14


def test_the_relative_score_of_a_table_is_that_of_its_rows():
    found = {
        "kinds": ["color", "size", "color", "size"],
        "rows": [
            {"name": "unpruned", "budget": None, "right": [1, 1, 1, 0]},
            {"name": "a, ttp", "budget": 0.25, "right": [1, 0, 1, 0]},
        ],
    }
    assert "| a, ttp | 66.7%" in accuracy.table(found)
    assert "answers 75.0% exactly" in accuracy.table(found)
    lines = accuracy.kinds_table(found, ["a, ttp"], 0.25).splitlines()
    assert lines[2:] == ["| color | 2 | 100.0 | 100.0 |", "| size | 2 | 50.0 | 0.0 |"]


def test_twigs_with_a_pruning_head_are_measured_by_it_too(folders, tmp_path):
    (tmp_path / "twig.json").write_text('{"spec": {"heads": {"lm": {}, "pruning": {}}}}')
    twigs = {"one": str(folders.twig), "two": str(tmp_path), "three": f"{tmp_path}@p-head:3,2"}
    jobs = accuracy.jobs_of(twigs, [0.5])
    assert [job.name for job in jobs] == [
        "unpruned", "one, random", "one, ttp", "two, ttp", "two, p-head", "three, p-head",
        "three, p-head, wiped after 3", "three, p-head, wiped after 2",
    ]  # fmt: skip
    assert jobs[-1].method.pruner == {"kind": "p-head", "wipe_layer": 2}
    assert jobs[-3].method.pruner == "p-head"
