"""How the demo's base is measured."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from torch.nn import functional as F

from tests.support.demo import small_base
from twigkit import TwigModel
from twigkit.demo.pool import scene_of
from twigkit.demo.recipe.build import VISUAL, build_processor, vocabulary
from twigkit.demo.recipe.course import Course
from twigkit.demo.recipe.evaluate import (
    SHORT,
    Exam,
    _exact_turns,
    describe_figures,
    gained,
    load_base,
    ngram_length,
    wiping,
)
from twigkit.demo.recipe.export import export_base
from twigkit.demo.recipe.packing import Packer
from twigkit.demo.world import draw
from twigkit.io.processors import prepare
from twigkit.speculative.ngrams import NgramTable

PACKER = Packer(vocabulary())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("evaluate") / "base"
    export_base(small_base(6), target, "# card\n")
    return target


def test_wiping_keeps_every_visual_token_until_the_wipe_layer(folder: Path) -> None:
    owner = TwigModel(load_base(folder))
    inputs = prepare(build_processor(), "describe the picture .", [draw(scene_of(7))])
    options = {"max_new_tokens": 2, "drafter": "plain", "return_dict_in_generate": True}
    output = owner.generate(**inputs, **options, **wiping(4, owner.stack.depth))
    assert output.stats.kept_tokens == {1: [VISUAL], 4: [0]}
    assert wiping(None, 6) == {}


def test_a_turn_is_exact_when_all_its_tokens_are() -> None:
    rows = [PACKER.sample(scene_of(seed), random.Random(seed)) for seed in (1, 2)]
    packed = PACKER.pack(rows)
    logits = F.one_hot(packed.ids.roll(-1, 1), len(vocabulary())).float()
    assert all(right for _, right in _exact_turns(logits, packed))
    place = int((packed.target[1] & (packed.block[1] == 2)).nonzero()[-1])
    logits[1, place - 1] = 0
    wrong = [turn for turn, right in _exact_turns(logits, packed) if not right]
    assert wrong == [rows[1][2]]


def test_an_exam_reports_every_kind(folder: Path) -> None:
    exam = Exam(load_base(folder), scenes=4, batch=4)
    figures = exam.exact(Course(2, 11, 4), shuffled=True, biased=False)
    assert set(figures) == {*SHORT, "all"}
    assert all(0 <= share <= 1 for share in figures.values())
    assert figures["all"] < 0.5, "random weights do not answer"


def test_descriptions_are_judged_by_their_facts(folder: Path) -> None:
    figures = describe_figures(load_base(folder), 1, wipe=4, limit=12)
    assert figures["facts"] < 0.1, "random weights state no facts"
    assert figures["exact"] == 0
    assert 0 < figures["tokens"] <= 12


def test_word_sequences_alone_do_not_get_far() -> None:
    assert 1.5 < ngram_length(trained=5900, tested=100) < 2.45


def test_what_grams_gain() -> None:
    table = NgramTable.count([range(6)] * 2, order=3)
    # Right throughout: five drafts and the target's own token in one step.
    assert gained(table, [0], [1, 2, 3, 4, 5], length=5) == 5
    assert gained(table, [0], [1, 2, 3, 4, 5], length=1) == 5 / 3
    # Never right: the target's own token alone.
    assert gained(table, [0], [9, 9, 9, 9], length=5) == 1
