"""From answers to a twig that was trained on them."""

from __future__ import annotations

import json

import torch

from twigkit import TwigModel
from twigkit.demo.language.answers import write_answers
from twigkit.demo.language.prompts import make_prompts
from twigkit.demo.language.training import (
    Shape,
    start_twig,
    training_spec,
    write_records,
)
from twigkit.training.trainer import train

SHAPE = Shape(exit_layer=3, depth=1, rows=40, offsets=2)


def line(answer, tokens=()):
    return {"kind": "list", "prompt": "What", "answer": answer, "tokens": tokens}


def test_records_are_what_training_reads_without_empty_answers(tmp_path):
    path = tmp_path / "records.jsonl"
    assert write_records([line("the w20"), line(" \n")], path) == 1
    record = json.loads(path.read_text())
    assert record == {"id": "list-0", "question": "What", "answer": "the w20"}


def test_the_heads_score_the_frequent_tokens(chat_base, tmp_path):
    answers = [line("", [50, 50, 60]), line("", [60, 50, 70])]
    shape = Shape(exit_layer=3, depth=1, rows=3, offsets=0)
    start_twig(TwigModel.from_pretrained(chat_base), chat_base, shape, answers, tmp_path / "twig")
    twig = TwigModel.from_pretrained(chat_base, twig=tmp_path / "twig").twig
    assert list(twig.heads) == ["lm"]
    assert twig.head("lm").drafted.ids.tolist() == [50, 60, 70]


def test_a_twig_learns_the_models_own_answers(chat_base, chat_model, chat_tokenizer, tmp_path):
    prompts = make_prompts(10)
    answers = write_answers(
        chat_model, chat_tokenizer, prompts, tmp_path / "answers.jsonl", max_new_tokens=12
    )
    records, start, out = (tmp_path / name for name in ("records.jsonl", "start", "twig"))
    write_records(answers, records)
    start_twig(chat_model, chat_base, SHAPE, answers, start)
    spec = training_spec(chat_base, start, records, records, out, steps=12, batch=5, micro_batch=5)
    result = train(spec, show=False)
    first, last = (found["loss"] for found in (result.history[place] for place in (1, -1)))
    assert last < 0.8 * first
    model = TwigModel.from_pretrained(chat_base, twig=out)
    ids = torch.tensor([[1, 5, 6, 2, 1]])
    drafter = {"kind": "medusa-tree", "paths": [[0], [1], [0, 0]]}
    drafted = model.generate(ids, max_new_tokens=10, drafter=drafter)
    plain = model.base.generate(ids, max_new_tokens=10, do_sample=False)
    assert drafted.tolist() == plain.tolist()
