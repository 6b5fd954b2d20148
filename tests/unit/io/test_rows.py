"""Files of rows, by their endings."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from twigkit.errors import InputError
from twigkit.io.rows import read_rows

ROWS = [{"a": "1", "b": "x,y"}, {"a": "2", "b": "z"}]


def test_every_format_gives_the_same_rows(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    texts = {
        "r.json": json.dumps(ROWS, indent=1),
        "lines.json": lines,
        "r.jsonl": lines,
        "r.tsv": "a\tb\n1\tx,y\n2\tz\n",
        "r.csv": 'a,b\n1,"x,y"\n2,z\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_rows(tmp_path / name) == ROWS, name
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "r.parquet")
    assert read_rows(tmp_path / "r.parquet") == ROWS


def test_one_line_is_a_row_or_a_whole_file_by_its_ending(tmp_path):
    for name, wanted in (("r.jsonl", [ROWS[0]]), ("r.json", ROWS[0])):
        (tmp_path / name).write_text(json.dumps(ROWS[0]) + "\n")
        assert read_rows(tmp_path / name) == wanted


def test_only_newlines_end_a_line(tmp_path):
    rows = [{"a": "one\u2028two\u0085three"}, {"a": "x"}]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for name in ("r.jsonl", "r.json"):
        (tmp_path / name).write_bytes(lines.encode())
        assert read_rows(tmp_path / name) == rows


def test_a_folder_of_parquet_files_is_read_in_order(tmp_path):
    for number in (1, 0):
        table = pa.Table.from_pylist([ROWS[number]])
        parquet.write_table(table, tmp_path / f"part-{number}.parquet")
    assert read_rows(tmp_path) == ROWS


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("r.json", "{broken", "cannot read"),
        ("r.jsonl", '{"a": 1}\n{', "cannot read"),
        ("r.parquet", "no parquet", "cannot read"),
        ("r.json", None, "there is no file"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, text, told):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told):
        read_rows(tmp_path / name)


def test_an_empty_folder_and_a_missing_package_are_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds no Parquet file"):
        read_rows(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"install twigkit\[eval\]"):
        read_rows(tmp_path)
