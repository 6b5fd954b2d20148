"""Files of made-up measurements, compared."""

from __future__ import annotations

import json

import pytest

from twigkit.bench.change import Speed, changes, read_measurement, rows_of, speed_of
from twigkit.cli.main import main
from twigkit.errors import InputError


def row(name, rate, spread=None, accepted=None, same="yes"):
    found = {
        "method": {"name": name},
        "tokens_per_second": rate,
        "accepted_length": accepted,
        "same_tokens_as_target": same,
    }
    return found if spread is None else {**found, "spread": spread}


def cell(*rows, failed=None):
    return {
        "name": "9 new tokens, one prompt at a time",
        "rows": list(rows),
        "failed": failed or {},
    }


@pytest.fixture
def files(tmp_path):
    """A function that writes a measurement."""

    def write(name, *cells, rounds=3, **conditions):
        data = {"conditions": {"torch": "2", **conditions}, "rounds": rounds, "cells": list(cells)}
        path = tmp_path / name
        path.write_text(json.dumps(data))
        return path

    return write


def test_a_ratio_has_the_range_of_its_rounds():
    found = Speed(30, 24, 36).ratio(Speed(10, 8, 12))
    assert (found.rate, found.low, found.high) == (3.0, 2.0, 4.5)
    assert found.verdict == "faster"
    assert Speed(9, 9, 9).ratio(Speed(10, 10, 10)).verdict == "slower"
    assert Speed(10, 9, 11).ratio(Speed(10, 9, 11)).verdict == "within the spread"
    assert speed_of(row("a", 5.0)) == Speed(5, 5, 5)


def test_what_changed_is_said(files):
    one = files(
        "a.json",
        cell(row("plain", 10.0, (9, 11)), row("ssd", 20.0, (19, 21), 3.0), row("old", 1.0)),
        device="cpu",
    )
    other = files(
        "b.json",
        cell(
            row("plain", 10.5, (10, 11)),
            row("ssd", 30.0, (29, 31), 4.0, same="no (prompt 1, token 2)"),
            failed={"compiled": "no compiler"},
        ),
        rounds=5,
        device="cuda",
        measured="today",
    )
    text = changes(one, other)
    assert "device: cpu -> cuda" in text
    assert "rounds: 3 -> 5" in text
    assert "measured" not in text
    table = [line for line in text.splitlines() if line.startswith("9 new tokens")]
    lines = {line.split("  ")[1].strip(): line for line in table}
    assert "1.05 [0.91, 1.22]" in lines["plain"]
    assert "within the spread" in lines["plain"]
    assert "1.50 [1.38, 1.63]" in lines["ssd"]
    assert "faster" in lines["ssd"]
    assert "3.00 -> 4.00" in lines["ssd"]
    assert "yes -> no (prompt 1, token 2)" in lines["ssd"]
    assert f"Only in {one}: 9 new tokens, one prompt at a time: old." in text
    assert f"Not run in {other}: compiled (no compiler)." in text


def test_one_round_is_no_evidence_of_a_change(files):
    one = files("a.json", cell(row("plain", 10.0, (10, 10))))
    other = files("b.json", cell(row("plain", 12.0, (11, 13))))
    for text in (changes(one, other), changes(other, one)):
        assert "one round, no spread" in text
        assert "faster" not in text
        assert "slower" not in text


def test_the_same_file_has_not_changed(files):
    path = files("a.json", cell(row("plain", 10.0, (9, 11))))
    text = changes(path, path)
    assert "The conditions are the same." in text
    assert "1.00" in text


def test_a_report_of_the_built_in_scenes_has_rows_too(tmp_path):
    data = {"conditions": {}, "decoding": [row("TTP", 5.0)]}
    (tmp_path / "bench.json").write_text(json.dumps(data))
    assert list(rows_of(read_measurement(tmp_path))) == [("decoding", "TTP")]


@pytest.mark.parametrize(
    "content",
    ["", "[1, 2]", "{}", "3", '{"cells": [], "conditions": {}}', '{"decoding": [{"name": "x"}]}',
     '{"cells": [{"name": "c"}], "conditions": {}}', '{"decoding": null, "conditions": {}}'],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match="is no measurement") as error:
        read_measurement(path)
    assert "\n" not in str(error.value)


def test_the_command_compares_and_refuses(files, capsys, tmp_path):
    path = files("a.json", cell(row("plain", 10.0, (9, 11))))
    assert main(["bench", "--compare", str(path), str(path)]) == 0
    assert "within the spread" in capsys.readouterr().out
    assert main(["bench", "--compare", str(path), str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
