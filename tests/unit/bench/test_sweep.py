"""The grid of a sweep, and that what is finished is not measured again."""

from __future__ import annotations

import json

import pytest

from twigkit.bench.sweep import choose, described, grid, read, run_sweep, tables
from twigkit.errors import InputError

SIZE = {"steps": 3, "questions": 4}


def measure_into(asked):
    def measure(cell):
        asked.append(None if cell is None else cell.name)
        if cell is None:
            return {"right": {"unpruned": [1, 1, 1, 0]}, "accepted": None}
        return {"right": {name: [1, 1, 0, 0] for name in cell.pruners}, "accepted": 2.5}

    return measure


def sweep(folder, cells, asked, size=SIZE):
    return run_sweep(cells, folder, measure_into(asked), conditions={"device": "cpu"}, size=size)


def test_the_grid_holds_what_the_papers_tables_vary():
    cells = grid()
    names = {cell.name for cell in cells}
    assert len(names) == len(cells)
    assert {f"T: {n}" for n in (1, 2, 3, 4)} <= names
    assert {f"K: {n}" for n in (1, 2, 3)} <= names
    assert {"score: layer K", "score: layer K + T", "score: the twig"} <= names
    assert {f"init: {n}" for n in ("copy", "last", "random")} <= names
    off = [dict(cell.objective) for cell in cells if cell.group == "losses"]
    assert off == [{}, {"prediction": 0.0}, {"attention": 0.0}, {"next_token": 0.0}]
    budgets = [cell.budget for cell in cells if cell.group == "budget"]
    assert budgets == [1 / 9, 2 / 9, 1 / 3]


def test_cells_of_the_papers_own_choices_share_one_twig():
    own = {cell.training for cell in grid() if cell.group in ("score", "Kf", "budget")}
    assert len(own) == 1
    same = {c.training for c in grid() if c.name in ("T: 3", "K: 2", "init: copy", "losses: all")}
    assert same == own
    assert len({cell.training for cell in grid() if cell.group == "T"}) == 4


def test_a_finished_cell_is_not_measured_again(tmp_path):
    asked = []
    sweep(tmp_path, grid()[:2], asked)
    assert asked == [None, "score: layer K", "score: layer K + T"]
    found = sweep(tmp_path, grid()[:3], asked)
    assert asked[3:] == ["score: the twig"]
    assert [cell["value"] for cell in found["cells"]] == ["layer K", "layer K + T", "the twig"]
    assert read(tmp_path / "sweep.json") == json.loads(json.dumps(found))
    assert described(found) == f"3 of {len(grid())} cells; 3 steps, 4 questions"


def test_a_sweep_of_another_size_is_not_gone_on_with(tmp_path):
    sweep(tmp_path, grid()[:1], [])
    with pytest.raises(InputError, match="another size"):
        sweep(tmp_path, grid()[:1], [], size={"steps": 9, "questions": 4})
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(InputError, match="no result of a sweep"):
        sweep(tmp_path, grid()[:1], [])


def test_what_is_asked_for_is_chosen():
    assert {cell.group for cell in choose(grid(), ["T", "K"], None)} == {"T", "K"}
    assert len(choose(grid(), [], 5)) == 5
    with pytest.raises(InputError, match="no sweep of 'Z'; choose from score"):
        choose(grid(), ["Z"], None)


def test_tables_put_ours_beside_the_papers(tmp_path):
    found = sweep(tmp_path, choose(grid(), ["score"], None), [])
    made = tables(found, lambda ours, whole: f"{sum(ours)} of {sum(whole)}")
    assert list(made) == ["score"]
    lines = made["score"].splitlines()
    assert lines[2] == "| layer K | 2 of 3 | 82.3% | - | - | - | - | 2.50 |"
    assert lines[4] == "| the twig | - | - | 2 of 3 | 96.0% | 2 of 3 | 96.4% | 2.50 |"
