"""Options of ``twigkit serve``, checked before a model is loaded."""

from __future__ import annotations

import contextlib
import re
import socket

import pytest
import uvicorn

from twigkit.cli.main import main, parse
from twigkit.cli.serve import _given


def given(*words):
    return _given(parse(["serve", *words])[1])


def test_options_become_settings(tmp_path):
    (tmp_path / "key").write_text("a secret\n")
    words = ["--limit-mm-per-prompt", "image=3,video=0", "--max-image-pixels", "99"]
    words += ["--api-key-file", str(tmp_path / "key"), "--allowed-media-domains", "a.example"]
    words += ["--request-timeout", "5", "--served-model-name", "m", "--budget", "1/9"]
    assert given(*words) == {
        "max_images": 3, "max_videos": 0, "most_pixels": 99, "api_key": "a secret",
        "allowed_media_domains": ("a.example",), "request_seconds": 5.0, "model_name": "m",
        "budget": pytest.approx(1 / 9),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--limit-mm-per-prompt", "audio=1"], "image=8,video=1"),
        (["--api-key", "a", "--api-key-file", "b"], "exclude each other"),
        (["--api-key-file", "/no/such/file"], "cannot be read"),
        (["--max-num-seqs", "0"], "max_num_seqs"),
        (["--drafter", "sdd"], "did you mean"),
        (["--port", "70000"], "cannot listen on"),
        (["--port", "0", "--base", "/no/such/base"], "/no/such/base"),
    ],
)
def test_what_cannot_be_used_ends_on_one_line(words, told, capsys):
    assert main(["serve", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_whoever_reads_that_it_serves_can_connect_at_once(monkeypatch, capsys):
    def run(server, sockets):
        said = capsys.readouterr().out
        port = int(re.search(r":(\d+)\n$", said)[1])
        assert port == sockets[0].getsockname()[1]
        with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=5)):
            connected.append(said)

    connected = []
    monkeypatch.setattr(uvicorn.Server, "run", run)
    assert main(["serve", "--port", "0"]) == 0
    assert len(connected) == 1
