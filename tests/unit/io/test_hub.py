"""A Hub that cannot be reached is noticed at once; what it gave before is still there."""

import time

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError

from twigkit import CheckpointError, TwigModel
from twigkit.cli.main import main
from twigkit.io.hub import SECONDS, download_options
from twigkit.io.processors import load_processor

NAME = "nobody-at-all/no-model-of-this-name"


@pytest.fixture
def asked(monkeypatch):
    """What the Hub is asked, and what it says: an error, or nothing."""
    questions = []

    def model_info(self, name, *, revision=None, timeout=None):
        questions.append((name, revision, timeout))
        if answer[0] is not None:
            raise answer[0]

    answer = [None]
    monkeypatch.setattr(HfApi, "model_info", model_info)
    return questions, answer


def test_a_hub_that_answers_is_used(asked):
    questions, answer = asked
    options = {"revision": "abc", "local_files_only": False, "trust_remote_code": False}
    assert download_options(NAME, "abc") == options
    assert questions == [(NAME, "abc", SECONDS)]
    answer[0] = HFValidationError("no such name")
    assert download_options(NAME, "abc") == options


def test_a_hub_that_does_not_answer_is_not_asked_again(asked):
    _, answer = asked
    answer[0] = ConnectionError("no line")
    assert download_options(NAME)["local_files_only"]


def test_a_folder_asks_nobody(asked, tmp_path):
    assert not download_options(tmp_path)["local_files_only"]
    assert asked[0] == []


@pytest.mark.parametrize("load", [TwigModel.from_pretrained, load_processor])
def test_without_a_line_nothing_is_waited_for(asked, load, monkeypatch):
    asked[1][0] = ConnectionError("no line")
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(CheckpointError, match=f"cannot load the .* {NAME}: "):
        load(NAME)
    assert sum(waits) < 1  # the hub's client tries again for half a minute


def test_the_command_line_says_it_on_one_line(asked, capsys):
    asked[1][0] = ConnectionError("no line")
    for words in (["inspect", NAME], ["generate", "--base", NAME, "--prompt", "what ?"]):
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == 1
