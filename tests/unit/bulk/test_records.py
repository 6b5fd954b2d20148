"""Records in, answers out: read strictly, written once."""

from __future__ import annotations

import json

import pytest

from twigkit import InputError
from twigkit.bulk.records import Journal, Record, read_records


def written(folder, *rows):
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_records_of_both_forms(tmp_path):
    rows = [
        {"prompt": "what ?", "image": "a.png"},
        {"id": 7, "question": "where ?", "images": ["a.png", "b.png"]},
        {"id": "x", "prompt": "who ?"},
    ]
    here = str(tmp_path)
    expected = [
        Record("0", "what ?", (f"{here}/a.png",)),
        Record("7", "where ?", (f"{here}/a.png", f"{here}/b.png")),
        Record("x", "who ?"),
    ]
    assert read_records(written(tmp_path, *rows)) == expected
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([{"id": "x", "prompt": "who ?", "image": "a.png"}])
    parquet.write_table(table, tmp_path / "data.parquet")
    assert read_records(tmp_path / "data.parquet") == [Record("x", "who ?", (f"{here}/a.png",))]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([], "record 0 of .* is a list"),
        ({"image": "a.png"}, "has no prompt"),
        ({"prompt": " "}, "has no prompt"),
        ({"prompt": "what ?", "image": 3}, "has pictures 3"),
    ],
)
def test_a_malformed_record_is_told(tmp_path, row, told):
    with pytest.raises(InputError, match=told):
        read_records(written(tmp_path, row))


def test_an_id_is_there_once(tmp_path):
    with pytest.raises(InputError, match="the id '1' twice"):
        read_records(written(tmp_path, {"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}))


def test_a_journal_goes_on_after_a_line_that_was_cut_off(tmp_path):
    journal = Journal(tmp_path / "new" / "out.jsonl")
    journal.add({"id": "a", "answer": "1"})
    journal.add({"id": "b", "answer": "2"})
    with journal.path.open("ab") as file:
        file.write(b'{"id": "c", "ans')
    again = Journal(journal.path)
    assert again.done == {"a", "b"}
    again.add({"id": "c", "answer": "3"})
    assert [answer["id"] for answer in again.answers()] == ["a", "b", "c"]
    with pytest.raises(InputError, match="answered already"):
        again.add({"id": "a", "answer": "1"})


def test_what_failed_is_tried_again(tmp_path):
    journal = Journal(tmp_path / "out.jsonl")
    journal.add({"id": "a", "error": "no such picture"})
    journal.add({"id": "b", "answer": "2", "tokens": 1})
    again = Journal(journal.path)
    assert again.done == {"b"}
    again.add({"id": "a", "answer": "1", "tokens": 1})
    assert [answer["id"] for answer in again.answers()] == ["b", "a"]


def test_a_place_where_no_answer_can_be_written_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        Journal(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        Journal(tmp_path / "file" / "out.jsonl").add({"id": "a", "answer": "1"})


def test_a_file_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("years of work\n")
    with pytest.raises(InputError, match="holds no answers of twigkit map"):
        Journal(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "years of work\n"


def test_answers_become_parquet_in_the_order_of_the_records(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    journal = Journal(tmp_path / "out.jsonl")
    journal.add({"id": "b", "answer": "2", "tokens": 3})
    journal.add({"id": "a", "error": "no such picture"})
    journal.to_parquet(tmp_path / "out.parquet", ["a", "b"])
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["a", "b"]
    assert {row["answer"] for row in rows} == {None, "2"}
