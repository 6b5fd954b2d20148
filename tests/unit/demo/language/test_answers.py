"""Answers in batches are those of one prompt alone, and a killed run goes on."""

from __future__ import annotations

import torch

from twigkit.demo.language.answers import prompt_ids, read_answers, write_answers
from twigkit.demo.language.prompts import make_prompts


def write(model, tokenizer, path, count=7, **options):
    prompts = make_prompts(count)
    options = {"max_new_tokens": 6, "batch": 3, **options}
    return write_answers(model, tokenizer, prompts, path, **options)


def test_each_answer_is_the_models_own(chat_model, chat_tokenizer, tmp_path):
    lines = write(chat_model, chat_tokenizer, tmp_path / "a" / "answers.jsonl")
    for line, prompt in zip(lines, make_prompts(7), strict=True):
        ids = torch.tensor([prompt_ids(chat_tokenizer, prompt.text)])
        alone = chat_model.base.generate(ids, max_new_tokens=6, do_sample=False)
        assert line["tokens"] == alone[0, ids.shape[1] :].tolist()
        assert (line["kind"], line["prompt"]) == (prompt.kind, prompt.text)
        decoded = chat_tokenizer.decode(line["tokens"], skip_special_tokens=True)
        assert line["answer"] == decoded


def test_an_answer_stops_after_its_end_token(chat_model, chat_tokenizer, tmp_path):
    lines = write(chat_model, chat_tokenizer, tmp_path / "answers.jsonl", count=2)
    end = lines[0]["tokens"][2]
    chat_model.base.generation_config.eos_token_id = [2, end]
    again = write(chat_model, chat_tokenizer, tmp_path / "again.jsonl", count=2)
    assert again[0]["tokens"] == lines[0]["tokens"][: lines[0]["tokens"].index(end) + 1]


def test_a_run_goes_on_where_it_was_killed(chat_model, chat_tokenizer, tmp_path):
    path, counts = tmp_path / "answers.jsonl", []
    whole = write(chat_model, chat_tokenizer, path)
    text = path.read_text()
    cut = text.index("\n", text.index("\n") + 1) + 20
    path.write_text(text[:cut])  # two answers, and a part of the third
    assert len(read_answers(path)) == 2
    assert write(chat_model, chat_tokenizer, path, progress=counts.append) == whole
    assert counts == [5, 7]
    assert len(read_answers(path)) == 7
    assert write(chat_model, chat_tokenizer, path, count=3) == whole[:3]
