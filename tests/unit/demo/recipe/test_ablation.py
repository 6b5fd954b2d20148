"""A cell of a sweep is trained and measured on a tiny base."""

from __future__ import annotations

import pytest

from twigkit.bench.sweep import choose, grid
from twigkit.cli.loading import demo_folder
from twigkit.demo.recipe.ablation import Ablation, Size

SIZE = Size(steps=1, batch=2, actions=1, group=2, questions=3, described=1)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    return Ablation(demo_folder("base"), tmp_path_factory.mktemp("twigs"), SIZE)


def test_the_unpruned_base_answers(ablation):
    found = ablation.measure(None)
    assert set(found["right"]) == {"unpruned"}
    assert len(found["right"]["unpruned"]) == 3


def test_cells_share_a_twig_and_stage_2_goes_on_from_it(ablation):
    first, *_, last = choose(grid(), ["score", "samples of stage 2"], None)
    found = ablation.measure(first)
    assert set(found["right"]) == {"fastv"}
    assert found["accepted"] >= 1
    assert [path.name.split("-", 1)[1] for path in ablation.work.iterdir()] == ["stage-1"]
    again = ablation.measure(last)
    assert set(again["right"]) == {"ttp", "p-head"}
    names = sorted(path.name.split("-", 1)[1] for path in ablation.work.iterdir())
    assert names == ["stage-1", "stage-2-1"]


def test_sizes_are_told_by_what_they_count():
    assert SIZE.told()["steps of stage 1"] == 1
    assert SIZE.told()["questions"] == 3
