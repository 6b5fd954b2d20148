"""Page and picture of an evaluation."""

import re
import xml.dom.minidom

from twigkit.evaluation.report import as_markdown, plot


def row(method, budget, value, **differs):
    pruner, _, drafter = method.partition(", ")
    return {
        "method": method, "pruner": pruner, "budget": budget, "drafter": drafter,
        "rel_acc": {"value": value, "low": value - 0.1, "high": value + 0.1}, "rel_speed": 1.5,
        "score": 100 * value, "low": 0.0, "high": 100.0, "parts": {"cats": 12.5},
        "relative": {"value": value, "low": 0.0, "high": 1.0}, "tokens_per_second": 7.0,
        "accepted_length": None, "visual_per_layer": 9.0, **differs,
    }  # fmt: skip


def data(*rows):
    task = {"metric": "F1", "questions": 3, "all": True, "unofficial": "", "rows": list(rows)}
    return {
        "conditions": {"device": "cpu", "base": "7 M parameters"},
        "settings": {"base": "x"},
        "tasks": {"pope": task},
        "overall": list(rows),
    }


ROWS = [row("unpruned, plain", None, 1.0), row("a, plain", 0.1, 0.8), row("a, plain", 0.3, 0.9),
        row("b<, plain", 0.1, 0.7)]  # fmt: skip


def test_the_page_has_every_table():
    page = as_markdown(data(*ROWS))
    assert "| a, plain | 80.0% [70.0, 90.0] | 1.50x |" in page
    assert "| method | F1 | 95% |" in page
    assert "| a, plain | 12.5 |" in page
    assert "- base: x" in page
    assert "- size of the base: 7 M parameters" in page
    assert "unofficial" not in page
    none = as_markdown(data(row("unpruned, plain", None, 1.0, score=None, rel_acc=None)))
    assert "a server scores" in none


def test_the_picture_has_a_line_per_pruner_and_a_point_per_budget():
    drawn = xml.dom.minidom.parseString(plot(data(*ROWS)))
    assert len(drawn.getElementsByTagName("polyline")) == 2
    points = [float(c.getAttribute("cy")) for c in drawn.getElementsByTagName("circle")]
    assert len(points) == 3
    assert points[1] < points[0] < points[2], "better is higher"
    texts = [t.firstChild.data for t in drawn.getElementsByTagName("text")]
    assert {"a, plain", "b<, plain", "0.1", "0.3"} <= set(texts)


def test_a_run_without_pruning_has_a_picture_too():
    assert not re.search("circle", plot(data(ROWS[0])))


def test_shares_that_are_all_the_same_still_have_an_axis():
    row = {"pruner": "ttp", "drafter": "ssd", "rel_acc": {"low": 1.0, "value": 1.0, "high": 1.0}}
    drawn = plot({"overall": [{**row, "budget": budget} for budget in (0.1, 0.3)]})
    heights = {line[0] for line in re.findall(r'x1="64" x2="550" y1="([0-9.]+)"()', drawn)}
    assert len(heights) == 5
    assert ">95%<" in drawn
    assert ">100%<" in drawn
