"""What a worker holds, and what it does with a batch; Ray itself is in the integration tests."""

from __future__ import annotations

import json

import pytest

from twigkit.bulk.on_ray import Worker


def worker(settings=(), **load):
    return Worker(load, {"max_new_tokens": 4, **dict(settings)}, rows=2)


def test_a_twig_alone_as_base_drafts(folders):
    alone = worker(base=str(folders.twig))
    assert alone.model.twig is not None
    assert alone.spec.drafter.kind == "ssd"
    named = worker(base=str(folders.base), twig=str(folders.twig))
    lines = [json.dumps({"id": str(n), "prompt": "what ?", "pictures": []}) for n in range(3)]
    answers = [json.loads(line) for line in alone({"record": lines})["answer"]]
    assert sorted(answer["id"] for answer in answers) == ["0", "1", "2"]
    assert named({"record": lines[:1]})["answer"] == [
        json.dumps(next(answer for answer in answers if answer["id"] == "0"))
    ]


@pytest.mark.parametrize(
    ("twig", "settings", "drafter"), [(False, {}, "plain"), (True, {"drafter": "plain"}, "plain")]
)
def test_without_a_twig_or_if_told_so_it_decodes_plainly(folders, twig, settings, drafter):
    load = {"twig": str(folders.twig)} if twig else {}
    assert worker(settings, base=str(folders.base), **load).spec.drafter.kind == drafter
