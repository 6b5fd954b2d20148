"""How often the demo's drafts are accepted."""

from __future__ import annotations

import json
from itertools import islice

from twigkit import TwigModel
from twigkit.demo.questions import KINDS
from twigkit.demo.recipe import acceptance
from twigkit.demo.recipe.acceptance import DESCRIBE, Tally, tally, texts
from twigkit.io.processors import load_processor


def test_each_kind_is_asked_as_often_and_descriptions_come_last() -> None:
    found = [kind for kind, _, _ in texts(2)]
    assert all(found.count(kind) == 2 for kind in (*KINDS, DESCRIBE))
    assert found[-2:] == [DESCRIBE] * 2


def test_a_tally_gives_shares_and_tokens_per_step() -> None:
    assert Tally(tokens=9, steps=4, drafted=8, accepted=5).cells == ["62%", "2.25"]
    assert Tally().cells == ["-", "-"]


def test_drafters_are_counted_by_kind(folders, monkeypatch) -> None:
    module = "twigkit.demo.recipe.acceptance.texts"
    monkeypatch.setattr(module, lambda per_kind: islice(texts(per_kind), 2))
    model = TwigModel.from_pretrained(folders.base, twig=folders.twig)
    processor = load_processor(folders.base)
    found = tally(model, processor, ["plain", "ssd"], 1)
    asked = [kind for kind in KINDS if found[kind][1].steps]
    assert len(asked) == 2
    both = found["all questions"]
    assert both[1].steps == sum(found[kind][1].steps for kind in asked)
    assert both[0].drafted == 0
    assert both[0].tokens == both[1].tokens, "greedy drafting changes no token"
    assert found[DESCRIBE][1].steps == 0


def test_the_command_prints_a_table_and_writes_its_figures(
    folders, monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setattr(acceptance, "texts", lambda per_kind: islice(texts(per_kind), 1))
    words = ["acceptance", "--base", folders.base, "--twig", folders.twig, "--drafters", "ssd"]
    monkeypatch.setattr("sys.argv", [str(w) for w in [*words, "--per-kind", 1, "--out", tmp_path]])
    acceptance.main()
    data = json.loads((tmp_path / "acceptance.json").read_text())
    assert data["drafters"] == ["ssd"]
    whole = Tally(**data["kinds"]["all questions"][0])
    assert whole.steps
    assert f"| all questions | {' | '.join(whole.cells)} |" in capsys.readouterr().out
