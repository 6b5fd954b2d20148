"""Every measured figure of README and docs comes from the files of docs/results."""

import copy
import json
import re
import xml.dom.minidom

import pytest

from docs.scripts import results
from docs.scripts.pictures import BARS, DOCS, IMAGES
from twigkit.demo.recipe.card import card

RUN = "run `make results` and read what it wrote"
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
MEASURED = re.compile(
    r"\d(?:[\d.,]*\d)?(?:x\b(?! \d)|%| ms\b| tokens/s| tokens per second| times as)"
)
"""What looks like a measurement: a speed, a share, a time."""


@pytest.fixture(scope="module")
def data():
    return results.load(results.FOLDER)


def test_page_table_and_picture_are_current(data):
    assert results.PAGE.read_text() == results.render(data), RUN
    assert results.GUIDE.read_text() == results.render(data, results.GUIDE_TEMPLATE), RUN
    text = results.README.read_text()
    assert text == results.readme(text, data), RUN
    assert (IMAGES / "speed.svg").read_text() == results.drawing(data), RUN


def test_the_card_of_the_base_is_current(data):
    page = results.BASE.with_name("README.md").read_text()
    assert page.rstrip("\n") == card(data["base"]).rstrip("\n")


def test_other_measurements_change_page_table_and_picture(data):
    other = copy.deepcopy(data)
    for row in other["bench"]["decoding"]:
        if row["method"]["name"] == results.SSD:
            row["tokens_per_second"] = 4.25 * other["bench"]["decoding"][0]["tokens_per_second"]
    (best,) = (r for r in other["accuracy"]["rows"] if r["name"] == "unpruned")
    best["right"] = [1] * len(best["right"])
    page = results.render(other)
    assert "| 4.25x |" in page
    assert "unpruned base answers 100.0%" in page
    assert '(`drafter="ssd"`) | 4.25x |' in results.render(other, results.GUIDE_TEMPLATE)
    assert "| 4.25x |" in results.readme(results.README.read_text(), other)
    texts = xml.dom.minidom.parseString(results.drawing(other)).getElementsByTagName("text")
    shown = [node.firstChild.data for node in texts]
    assert shown[0::2] == list(BARS.values())
    assert "4.25x" in shown[1::2]


def test_the_logs_of_the_stages_are_shown_where_they_are(data, tmp_path):
    lines = [
        {"event": "step", "step": 10, "loss": 2.5, "parts": {"next_token": 1.5}},
        {"event": "evaluation", "step": 10, "loss": 0.5, "accepted": 5.25},
        {"event": "step", "step": 20, "loss": 0.75, "parts": {"next_token": 0.25}},
    ]
    logs = {"distil": lines, "next-token": lines[2:], "reinforce": []}
    table = results.stages_table(logs)
    assert "| `distil` | 20 | held-out samples | loss 0.5, accepted 5.25 |" in table
    assert "| `next-token` | 20 | last steps | loss 0.75, next_token 0.25 |" in table
    assert results.stages_table({"distil": []}) == ""
    assert table in results.render({**data, "logs": logs})


def test_a_language_model_is_shown_where_it_was_measured(data):
    def row(method, speed, same, **drafter):
        found = {"method": method, "tokens_per_second": 10 * speed, "speed": speed}
        return {
            **found,
            "drafter": drafter,
            "accepted_length": None,
            "same": same,
            "answers": 4,
            "kinds": {"list": speed},
        }

    language = {
        "conditions": {"threads": "2", "base": "134.5 M parameters"},
        "shape": {"exit_layer": 4, "depth": 2, "rows": 4096, "offsets": 3},
        "training": {"prompts": 200, "steps": 75, "planned": 90, "held_out": {"right": 0.375}},
        "prompts": 4,
        "max_new_tokens": 16,
        "rounds": 3,
        "clock": "processor_seconds",
        "rows": [
            row("Hugging Face generate", 1.0, 4),
            row("Hugging Face, prompt lookup", 3.5, 4),
            row("plain", 1.25, 4),
            row("path", 2.25, 3, length=2),
            row("tree", 1.75, 4),
            row("Medusa tree", 1.5, 4, paths=[[0]]),
        ],
    }
    page = results.render({**data, "language": language})
    assert "| tree | 17.5 | 1.75x | - | 4 of 4 | 1.75x |" in page
    assert "with the same tokens: tree, 1.75 times" in page.replace("\n", " ")
    assert "Plain decoding alone gives 1.25 times" in page
    assert "path ends after 2 tokens and the static tree has 1 node," in page.replace("\n", " ")
    assert "the machine was busy" in page
    assert "in 75 steps (stopped; 90 were planned)" in page.replace("\n", " ")
    assert "right in 37.5% of the places" in page.replace("\n", " ")
    assert "language model" not in results.render({**data, "language": None})


def test_ablations_are_shown_where_they_are(data):
    cell = {"group": "T", "value": "2", "name": "T: 2", "paper": {"ttp": 95.2}, "accepted": 2.5}
    sweep = {
        "conditions": {"device": "cpu"},
        "size": {"questions": 2},
        "unpruned": [1, 1],
        "cells": [{**cell, "right": {"ttp": [1, 1]}}],
    }
    page = results.render({**data, "sweep": sweep})
    assert "| 2 | 100.0% [100.0, 100.0] | 95.2% | 2.50 |" in page
    assert "1 of 32 cells; 2 questions" in page
    assert "## Ablations" not in results.render({**data, "sweep": None})


def figures(text):
    """Measured figures outside of code and of what `make results` writes."""
    text = results.REGION.sub("", FENCE.sub("", text)).replace("95% intervals", "")
    return MEASURED.findall(text)


@pytest.mark.parametrize("page", ["README.md", "docs"])
def test_no_other_page_has_figures_of_its_own(page):
    root = results.README.parent
    pages = [root / page] if page.endswith(".md") else sorted(DOCS.rglob("*.md"))
    found = {
        p.name: figures(p.read_text()) for p in pages if p not in (results.PAGE, results.GUIDE)
    }
    assert {name: many for name, many in found.items() if many} == {}, (
        "measured figures belong into docs/results.md; link to it"
    )


@pytest.mark.parametrize("file", sorted(results.FOLDER.iterdir()), ids=lambda file: file.name)
def test_no_result_names_a_folder_of_the_machine_it_was_measured_on(file):
    assert re.findall(r"\"/[^\" ]+", file.read_text()) == []


def test_a_figure_in_a_page_would_be_noticed():
    assert figures("SSD is 2.5x as fast, 97% right, in 32 ms, at 99.4 tokens/s") == [
        "2.5x", "97%", "32 ms", "99.4 tokens/s",
    ]  # fmt: skip
    assert figures("```text\n3.0x\n```\na 4x4 grid, R_avg 64, LLaVA-1.5") == []


@pytest.mark.parametrize("template", [results.TEMPLATE, results.GUIDE_TEMPLATE])
def test_the_template_holds_no_figure_but_those_that_it_is_given(template):
    prose = re.sub(r"\{[{%].*?[}%]\}", "", FENCE.sub("", template.read_text()), flags=re.DOTALL)
    prose = prose.replace("95% intervals", "")
    assert MEASURED.findall(prose) == []
    decimals = re.findall(r"(?<![-\w.])\d+\.\d+", prose)
    assert decimals == []


def test_every_file_is_what_json_says():
    for path in results.FOLDER.glob("*.json"):
        assert json.loads(path.read_text()), path


def test_all_pruners_are_shown_where_they_were_measured(data, tmp_path):
    def row(name, budget, right):
        return {"name": name, "budget": budget, "right": right}

    rows = [row("unpruned", None, [1] * 40), row("p-head", 1 / 9, [1] * 40)]
    rows += [row("ttp", 1 / 9, [1] * 30 + [0] * 10), row("dart", 1 / 9, [1] * 30 + [0] * 10)]
    found = {"conditions": {"processor": "Some CPU"}, "kinds": ["color"] * 40, "rows": rows}
    page = results.render({**data, "baselines": found})
    assert "| p-head | 100.0% [100.0, 100.0] |" in page
    assert "- yes: p-head above ttp, by 25.0" in page
    assert "- no: ttp above dart" in page
    assert "## Beside other pruners" not in results.render({**data, "baselines": None})
