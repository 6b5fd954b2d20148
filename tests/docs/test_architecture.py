"""The picture of docs/architecture.md is what the imports say."""

import xml.dom.minidom
from itertools import pairwise

from docs.scripts.architecture import PICTURE, arrows, draw, order, positions, routes
from tests.support.imports import floors, folder_edges

SMALL = {"cli": {"model", "bench", "errors"}, "bench": {"model"}, "model": {"errors"}}
FLOORS = {"errors": 1, "model": 2, "bench": 3, "cli": 4}


def test_the_picture_is_current():
    assert PICTURE.read_text() == draw(folder_edges(), floors()), (
        "run `make architecture` and look at the picture"
    )


def test_the_picture_shows_every_folder_of_the_table():
    drawn = xml.dom.minidom.parseString(PICTURE.read_text())
    names = [node.firstChild.data for node in drawn.getElementsByTagName("text")]
    assert set(floors()) <= set(names)


def test_only_imports_that_follow_from_no_others_are_drawn():
    assert arrows(SMALL) == [("bench", "model"), ("cli", "bench"), ("model", "errors")]


def test_an_arrow_has_a_place_on_every_floor_that_it_passes():
    (way,) = routes([("cli", "errors")], FLOORS).values()
    assert way == [("cli", 4), ("cli>errors", 3), ("cli>errors", 2), ("errors", 1)]


def test_no_two_places_of_a_floor_overlap():
    ways = routes(arrows({**SMALL, "cli": {"bench", "tool"}}), {**FLOORS, "tool": 1})
    rows = order(ways, {**FLOORS, "tool": 1})
    x = positions(rows)
    for row in rows.values():
        places = [x[place] for place in row]
        assert all(b - a > 100 for a, b in pairwise(places))
    assert len(rows[1]) == 2
    assert len(rows[3]) == len(rows[2]) == 2  # a box, and the arrow that passes


def test_an_import_changes_the_picture():
    drawn, fewer = (draw(found, FLOORS) for found in (SMALL, {**SMALL, "model": set()}))
    assert drawn.count("marker-end") == 3
    assert "model imports errors" in drawn
    assert "model imports nothing" in fewer
    assert drawn != fewer
