"""A log that looks the same however often the run was cut off."""

import json

import pytest

from twigkit import TrainingError
from twigkit.training.loop.run_log import RunLog, RunningMeans, read_lines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.jsonl"


def write(path, steps, since=0):
    run_log = RunLog(path)
    run_log.rewind(since)
    for step in steps:
        run_log.write("step", step, {"loss": step / 3})
    return run_log


def test_lines_can_be_read_while_the_run_goes_on(path):
    write(path, [1, 2])
    assert read_lines(path) == [
        {"event": "step", "step": 1, "loss": 1 / 3},
        {"event": "step", "step": 2, "loss": 2 / 3},
    ]


def test_what_lies_beyond_the_snapshot_is_dropped_and_written_again(path):
    write(path, range(1, 8))
    write(path, [5, 6], since=4)
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3, 4, 5, 6]
    assert read_lines(path) == read_lines(path)


def test_a_line_that_was_cut_off_is_dropped(path):
    write(path, [1, 2, 3]).close()
    whole = path.read_text()
    path.write_text(whole[:-9])
    write(path, [3], since=2)
    assert path.read_text() == whole


def test_a_torn_line_does_not_swallow_the_next(path):
    write(path, [1, 2]).close()
    with path.open("a") as file:
        file.write('{"event": "step", "st')
    write(path, [3], since=2)
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3]
    assert all(json.loads(row) for row in path.read_text().splitlines())


def test_a_run_from_the_start_begins_a_new_log(path):
    write(path, [1, 2, 3])
    write(path, [1], since=0)
    assert [line["step"] for line in read_lines(path)] == [1]


def test_numbers_that_json_cannot_hold_are_null(path):
    run_log = write(path, [])
    run_log.write("step", 1, {"loss": float("nan"), "parts": {"a": float("inf"), "b": 1.0}})
    assert read_lines(path)[0] == {
        "event": "step", "step": 1, "loss": None, "parts": {"a": None, "b": 1.0},
    }  # fmt: skip


def test_a_log_that_cannot_be_written_says_what_is_left(path, monkeypatch):
    run_log = write(path, [1])

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_log, "_file", Full())
    with pytest.raises(TrainingError, match=r"log\.jsonl: No space left.*checkpoints are intact"):
        run_log.write("step", 2, {})


def test_a_window_gives_means_and_survives_a_restart():
    window = RunningMeans()
    for value in (1.0, 2.0, 6.0):
        window.add({"loss": value, "norm": 1.0})
    again = RunningMeans(**json.loads(json.dumps({"sums": window.sums, "steps": window.steps})))
    assert again.means() == window.means() == {"loss": 3.0, "norm": 1.0}
    window.clear()
    window.add({"loss": 5.0})
    assert window.means() == {"loss": 5.0}


def test_a_full_disk_is_told_once(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.rewind(0)
    log._file.close()
    log._file = open("/dev/full", "a")  # noqa: SIM115
    with pytest.raises(TrainingError, match="No space left"):
        log.write("step", 1, {"loss": 1.0})
    log.close()
