"""Files are written whole, with the mode that the user asked for, and replace no device or link."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from twigkit import InputError
from twigkit.io.files import open_regular, read_regular, write_whole


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, umask):
    path = write_whole(tmp_path / "new" / "page.md", "text")
    assert mode(path) == 0o666 & ~umask
    assert path.read_text() == "text"
    assert [file.name for file in path.parent.iterdir()] == ["page.md"]


def test_an_older_file_keeps_its_mode(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("older and longer")
    path.chmod(0o640)
    write_whole(path, b"new")
    assert (mode(path), path.read_bytes()) == (0o640, b"new")


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    real, link = tmp_path / "real.md", tmp_path / "link.md"
    real.write_text("old")
    link.symlink_to(real.name)
    assert write_whole(link, "new") == link
    assert link.is_symlink()
    assert real.read_text() == "new"
    dangling = tmp_path / "dangling.md"
    dangling.symlink_to("later.md")
    write_whole(dangling, "made")
    assert dangling.is_symlink()
    assert (tmp_path / "later.md").read_text() == "made"


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="cannot write"):  # nobody reads: an error, no waiting
        write_whole(pipe, "text")
    held = os.open(pipe, os.O_RDWR)
    content = b"x" * 300_000  # more than a pipe holds at once
    reader = threading.Thread(target=lambda: read.append(os.fdopen(held, "rb").read(len(content))))
    reader.start()
    write_whole(pipe, content)
    reader.join()
    assert read == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into(tmp_path):
    link = tmp_path / "nothing"  # never the device itself: a mistake would replace the machine's
    link.symlink_to(os.devnull)
    write_whole(link, "text")
    assert link.is_symlink()
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_door_to_an_open_file_is_not_replaced(tmp_path):
    path = tmp_path / "open.txt"
    with (
        path.open("w") as file,
        pytest.raises(InputError, match=r"stands for the file .*open\.txt"),
    ):
        write_whole(f"/proc/self/fd/{file.fileno()}", "text")
    assert path.read_text() == ""


def test_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "circle").symlink_to("circle")
    for path in (tmp_path, tmp_path / "file" / "below", tmp_path / "a\0b", tmp_path / "circle"):
        with pytest.raises(InputError, match="cannot write"):
            write_whole(path, "text")
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file"]


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"1234")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 4) == b"1234"
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_regular(tmp_path / "file", 3)
    for name in ("pipe", "endless"):
        with pytest.raises(OSError, match="no regular file"):
            open_regular(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nowhere")
