"""The demo: what was kept, drawn where it lies, and a report that says what the run found."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.support.broken import plant
from tests.support.checkpoints import tiny_processor
from twigkit import InputError, TwigModel, TwigSpec
from twigkit.bench.answering import answer
from twigkit.bench.methods import Method
from twigkit.cli.main import main
from twigkit.demo import overlay, page, report, show
from twigkit.demo.decoding_image import WrittenToken
from twigkit.demo.unseen import unseen
from twigkit.io.processors import prepare


@pytest.fixture(scope="module")
def model(folders):
    return TwigModel.from_pretrained(folders.base, twig=folders.twig)


@pytest.fixture(scope="module")
def samples():
    return unseen(4, seed=2, short=1)


@pytest.fixture(scope="module")
def shown(model, samples):
    return show.run(model, tiny_processor(), samples, budget=8, max_new_tokens=8)


def words(folders, out, *more):
    given = ["demo", *folders.model, "--out", out, "--budget", "8", "--scenes", "1"]
    return [str(word) for word in (*given, "--max-new-tokens", "8", *more)]


@pytest.mark.parametrize(
    ("heads", "more", "pruner"),
    [
        ({"pruning": "pruning"}, (), "p-head"),
        ({}, (), "ttp"),
        ({"pruning": "pruning"}, ("--pruner", "ttp"), "ttp"),
    ],
)
def test_the_demo_prunes_by_the_best_head_that_the_twig_has(
    folders, tmp_path, monkeypatch, heads, more, pruner
):
    spec = {"base": str(folders.base), "exit_layer": 2, "depth": 1, "heads": {"lm": "lm"} | heads}
    grown = TwigModel.from_pretrained(folders.base)
    grown.grow(TwigSpec.model_validate(spec))
    grown.save_twig(tmp_path / "twig")
    asked = []

    def run(*args, **options):
        asked.append(options["pruner"])
        raise InputError("seen")

    monkeypatch.setattr(show, "run", run)
    given = ["demo", "--base", str(folders.base), "--twig", str(tmp_path / "twig")]
    assert main([*given, "--scenes", "1", "--out", str(tmp_path), *more]) == 2
    assert asked == [pruner]


def test_kept_tokens_are_those_with_the_highest_scores(model, samples):
    prompt = prepare(tiny_processor(), "what is there ?", [samples[0].picture])
    given = answer(model, prompt, Method("x", budget=8), max_new_tokens=1)
    kept, scores = show.kept_tokens(model, prompt, given)
    assert len(scores) == 16
    assert len(kept) == 8
    assert set(kept) == set(np.argsort(scores)[-8:].tolist())
    plain = answer(model, prompt, Method("x"), max_new_tokens=1)
    with pytest.raises(InputError, match="nothing was pruned"):
        show.kept_tokens(model, prompt, plain)


def test_a_kept_token_is_drawn_as_it_is_and_a_dropped_one_fades():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 90, (12, 12, 3), dtype=np.uint8))
    whole = np.asarray(overlay.enlarge(picture, (3, 3)))
    drawn = np.asarray(overlay.draw_kept(picture, (3, 3), {1, 4}))
    assert drawn.shape == whole.shape == (72, 72, 3)
    inside = slice(24 + 4, 48 - 4)  # the second column, without its outline
    assert (drawn[4:20, inside] == whole[4:20, inside]).all()
    assert (drawn[28:44, inside] == whole[28:44, inside]).all()
    assert (drawn[52:, inside] > whole[52:, inside]).all()
    assert (drawn[:, :20] > whole[:, :20]).all()
    assert tuple(drawn[10, 24]) == overlay.INK  # the left edge
    assert (drawn[23:25, 30:40] == whole[23:25, 30:40]).all()  # no edge between two kept ones


def test_the_heat_is_where_the_score_is():
    picture = Image.new("RGB", (12, 12), "white")
    drawn = np.asarray(overlay.draw_heat(picture, (2, 2), [0.0, 0.9, 0.1, 0.0])).astype(int)
    green = [drawn[12, 12, 1], drawn[12, 36, 1], drawn[36, 12, 1], drawn[36, 36, 1]]
    assert green[1] < green[2] < green[0] == green[3]


def test_the_grid_in_characters():
    assert overlay.text_grid((2, 2), {1, 2}) == ["· ██", "██· "]


def test_facts_of_a_description_are_counted(samples):
    sample = samples[0]
    turn = sample.description
    right, told = show.judge(sample, turn, turn.answer)
    assert right
    count = re.fullmatch(r"(\d+) of \1 facts right", told)[1]
    assert not show.judge(sample, turn, "nothing .")[0]
    assert show.judge(sample, turn, "nothing .")[1] == f"0 of {count} facts right"
    short = sample.turns[0]
    assert show.judge(sample, short, short.answer) == (True, "right")
    assert show.judge(sample, short, "soup") == (False, f"expected: {short.answer}")


def test_the_page_fits_a_terminal(shown):
    text = page.render(shown)
    assert max(map(len, text.splitlines())) <= 100
    assert "same tokens as the target: yes" in text
    for name in ("Hugging Face generate", "twigkit plain", "TTP", "SSD", "TTP + SSD"):
        assert re.search(rf"^{re.escape(name)}  ", text, re.MULTILINE)
    assert "Of 16 visual tokens per picture, 8 stay after layer 2 and none after layer 6." in (
        " ".join(text.split())
    )
    assert "scene 3" in text
    assert "scene 4" not in text
    assert "(1 more in the report)" in text


class Outline(HTMLParser):
    """What a browser would have to fetch, and what it finds."""

    def __init__(self, text):
        super().__init__()
        self.images, self.fetched, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "img":
            self.images.append(given["src"])
        self.fetched += [v for k, v in attrs if k in {"src", "href"} and v[:5] != "data:"]
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_needs_nothing_else(shown):
    text = report.render(shown)
    found = Outline(text)
    assert found.open == []
    assert found.fetched == []
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text
    # a picture, two for each of two questions, and two of each pruner beside each other
    pruners = len(shown.exhibits[0].pruned)
    assert pruners == 6
    assert len(found.images) == 4 * (1 + 2 * 2 + 2 * pruners)
    for source in found.images:
        data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        size = Image.open(io.BytesIO(data)).size
        assert size in ((4 * overlay.CELL,) * 2, (4 * 12,) * 2)
    for exhibit in shown.exhibits:
        for panel in exhibit.panels:
            assert panel.turn.question in text
    assert "same tokens as the target: yes" in text
    assert "8 of 16" in text


def test_text_of_a_model_cannot_become_markup(shown):
    panel = shown.exhibits[0].panels[0]
    object.__setattr__(panel, "written", (WrittenToken("<b>&", drafted=True, step=1),))
    text = report.render(shown)
    assert "&lt;b&gt;&amp;" in text
    assert "<b>&" not in text


def test_the_command_says_yes(folders, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert main(words(folders, out)) == 0
    said = capsys.readouterr()
    assert "same tokens as the target: yes" in said.out
    assert f"Report with pictures: {out / 'report.html'}" in said.out
    assert said.err == ""
    assert {path.name for path in out.iterdir()} == {"report.html", "scene-1.png"}
    assert Image.open(out / "scene-1.png").size == (144, 144)
    assert "same tokens as the target: yes" in (out / "report.html").read_text()


def test_the_command_says_no_to_a_broken_drafter(folders, tmp_path, capsys, monkeypatch):
    plant(monkeypatch)
    assert main(words(folders, tmp_path, "--drafter", "broken")) == 1
    said = capsys.readouterr().out
    assert "same tokens as the target: yes" not in said
    assert "same tokens as the target: no" in said
    assert re.search(
        r"SSD differs from (twigkit plain|TTP) at prompt 1, token ", " ".join(said.split())
    )
    assert max(map(len, said.splitlines()[:-1])) <= 100
    text = (tmp_path / "report.html").read_text()
    assert "same tokens as the target: no" in text
    assert "same tokens as the target: yes" not in text
    assert '<b class="bad">no</b>' in text
