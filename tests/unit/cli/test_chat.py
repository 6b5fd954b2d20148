"""``twigkit chat``: turns remember what was said, and a wrong line ends nothing."""

from __future__ import annotations

import io

import pytest

from twigkit import TwigModel
from twigkit.cli.chat import Chat
from twigkit.cli.main import main
from twigkit.io.conversation import encode, render
from twigkit.io.processors import load_processor, open_picture


def talk(monkeypatch, capsys, words, *lines):
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    status = main(["chat", *map(str, words), "--max-new-tokens", "5"])
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def chat(folders):
    model = TwigModel.from_pretrained(folders.base, folders.twig)
    return Chat(model, load_processor(folders.base), {"max_new_tokens": 5, "eos_token_id": None})


def test_a_second_question_is_put_after_the_first_and_its_answer(chat, folders):
    chat.waiting = [open_picture(folders.picture)]
    first = chat.ask("what is there ?")
    assert first.visual_tokens == [16]
    assert [turn["role"] for turn in chat.turns] == ["user", "assistant"]
    second = chat.ask("what is in the picture ?")
    assert second.visual_tokens == [16], "the picture stays in the conversation"
    assert second.prompt_tokens[0] > first.prompt_tokens[0] + 5
    turns = [*chat.turns[:2], {"role": "user", "content": chat.turns[2]["content"]}]
    inputs = encode(chat.processor, render(chat.processor, turns), chat.pictures)
    own = chat.model.base.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
    answer = own[0, inputs["input_ids"].shape[1] :]
    said = chat.processor.tokenizer.decode(answer, skip_special_tokens=True).strip()
    assert chat.turns[3]["content"][0]["text"] == said


def test_lines_are_answered_on_stdout_and_all_else_is_on_stderr(folders, monkeypatch, capsys):
    status, out, err = talk(
        monkeypatch, capsys, folders.model,
        f"/image {folders.picture}", "what is there ?", "", "/image nowhere.png", "/dance",
        "what ?", "/new", "what ?", "/quit", "never asked",
    )  # fmt: skip
    assert status == 0
    assert len(out.splitlines()) == 3
    assert "there is no file 'nowhere.png'" in err
    assert "there is no /dance" in err
    assert "/image FILE adds a picture" in err


def test_without_a_chat_template_nothing_is_asked(tmp_path, monkeypatch, capsys):
    from tests.support.checkpoints import write_base

    base = write_base(tmp_path / "base", chat=False)
    capsys.readouterr()
    status, _, err = talk(monkeypatch, capsys, ["--base", base], "what ?")
    assert status == 2
    assert "has no chat template" in err
