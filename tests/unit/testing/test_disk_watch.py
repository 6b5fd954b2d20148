"""What a plug-in does to files and programs is noticed, whatever way it does it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading

import pytest

from twigkit.testing.disk_watch import leaving_files_alone

DEEDS = {
    "opened .*new to write": lambda folder: (folder / "new").write_text("x"),
    "opened .*old to write": lambda folder: open(folder / "old", "r+").close(),
    "removed .*old": lambda folder: (folder / "old").unlink(),
    "renamed .*old": lambda folder: (folder / "old").replace(folder / "new"),
    "made .*folder": lambda folder: (folder / "folder").mkdir(),
    "removed .*full": lambda folder: shutil.rmtree(folder / "full"),
    "linked .*old": lambda folder: (folder / "new").symlink_to(folder / "old"),
    "changed .*old": lambda folder: (folder / "old").chmod(0o600),
    "cut .*old": lambda folder: os.truncate(folder / "old", 0),
    "started true": lambda folder: subprocess.run(["true"], check=True),
    "started .*true": lambda folder: os.system("true"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path.parent / "temporary"))
    (tmp_path / "old").write_text("old")
    (tmp_path / "full").mkdir()
    return tmp_path


@pytest.mark.parametrize("said", DEEDS)
def test_a_deed_is_named(folder, said):
    failing = pytest.raises(pytest.fail.Exception, match=f"It {said}.*leaves files")
    with failing, leaving_files_alone("It"):
        DEEDS[said](folder)


def test_reading_is_free_and_so_is_everything_outside(folder):
    with leaving_files_alone("It"):
        assert (folder / "old").read_text() == "old"
        with open(os.devnull, "w") as nothing:
            nothing.write("x")
        other = threading.Thread(target=(folder / "other").write_text, args=("x",))
        other.start()
        other.join()
    (folder / "new").write_text("x")


def test_temporary_files_are_free(folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with leaving_files_alone("It"), tempfile.NamedTemporaryFile("w") as held:
        held.write("x")


def test_an_exception_goes_before_what_was_noticed(folder):
    with pytest.raises(UnicodeEncodeError), leaving_files_alone("It"):
        (folder / "new").write_text("\ud800", "utf-8")
