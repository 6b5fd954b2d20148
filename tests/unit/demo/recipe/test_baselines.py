"""The measurement of all pruners: it goes on where it stopped, and says which orders hold."""

import json

import pytest

from twigkit.demo.recipe.accuracy import WEIGHTS
from twigkit.demo.recipe.baselines import (
    BATCH,
    TRAINING_FREE,
    answered,
    batches,
    measure,
    read,
    table,
    verdicts,
    ways_of,
    write,
)
from twigkit.errors import InputError

ASKED = {"budgets": [1 / 9], "names": ["random", "ttp"]}


def run(folder, questions, **more):
    given = ASKED | more
    return measure(WEIGHTS / "base", WEIGHTS / "twig", folder, questions=questions, **given)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    return folder, run(folder, 4)


def test_answers_by_every_way(measured):
    _, found = measured
    assert [row["name"] for row in found["rows"]] == ["unpruned", "random", "ttp"]
    assert all(len(row["right"]) == 4 for row in found["rows"])
    assert len(found["kinds"]) == 4
    assert sum(found["rows"][0]["right"]) >= 3  # the base knows its world
    assert "| pruner | 1/9 of M |" in table(found)
    assert "| random |" in table(found)


def test_writes_short_and_reads_the_same(measured, tmp_path):
    _, found = measured
    write(found, tmp_path / "baselines.json")
    assert read(tmp_path / "baselines.json") == found
    assert '"right":"' in (tmp_path / "baselines.json").read_text()


def test_goes_on_where_it_stopped(measured):
    folder, found = measured
    file = folder / "answers-0.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])  # killed while writing
    assert len(answered(folder)) == 2
    again = run(folder, 4)
    assert again == found
    told = [json.loads(line) for line in file.read_text().splitlines()[-1:]]
    assert len(told) == 1
    assert file.read_text().splitlines()[: len(lines) - 1] == lines[:-1]


def test_a_batch_that_was_cut_short_is_answered_again(measured):
    folder, found = measured
    more = run(folder, 5, names=["random"])
    assert [len(row["right"]) for row in more["rows"]] == [5, 5]
    assert more["rows"][0]["right"][:4] == found["rows"][0]["right"]


def test_refuses_answers_of_another_twig(measured):
    folder, _ = measured
    note = folder / "run.json"
    before = note.read_text()
    note.write_text(json.dumps(json.loads(before) | {"twig": "another"}))
    with pytest.raises(InputError, match="answers of another base or twig"):
        run(folder, 4)
    note.write_text(before)


def test_rows_of_table_4a_cut_where_the_twig_does():
    ways = {way.name: way.pruner for way in ways_of(2, 3, [0.5], [])}
    assert set(TRAINING_FREE) < set(ways)
    assert ways["score of layer K"]["score_layer"] == 2
    assert ways["score of layer K + T"]["score_layer"] == 5
    assert {ways[name]["wipe_layer"] for name in ways if name.startswith("score")} == {0.75}
    with pytest.raises(InputError, match="there is no row 'nothing'"):
        ways_of(2, 3, [0.5], ["nothing"])


def test_batches():
    assert [len(part) for part in batches(BATCH + 5)] == [BATCH, 5]


def test_verdicts_say_what_is_sure():
    def row(name, right):
        return {"name": name, "budget": 0.1, "right": right}

    rows = [row("p-head", [1] * 40), row("ttp", [1] * 20 + [0] * 20)]
    rows += [
        row("random", [0] * 40),
        row("fastv", [1] * 30 + [0] * 10),
        row("dart", [1] * 20 + [0] * 20),
    ]
    found = verdicts({"rows": [*rows, {"name": "unpruned", "budget": None, "right": [1] * 40}]})
    assert [line.split(", by")[0] for line in found] == [
        "yes: p-head above ttp",
        "yes: ttp above random",
        "no: ttp above fastv",
        "no: ttp above dart",
    ]
