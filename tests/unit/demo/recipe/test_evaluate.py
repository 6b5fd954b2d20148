"""How the demo is measured, and the stage that trains its twig."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoProcessor, LlavaForConditionalGeneration

from twigkit.demo.pool import HELD_OUT, Pool, scene_of
from twigkit.demo.recipe.build import VISUAL, build_config, vocabulary
from twigkit.demo.recipe.card import card
from twigkit.demo.recipe.evaluate import FIRST, SHORT, Exam, _exact_turns, generate, load_base, see
from twigkit.demo.recipe.export import export_base
from twigkit.demo.recipe.joint import Course
from twigkit.demo.recipe.packing import Packer
from twigkit.demo.recipe.trainer import Schedule, train
from twigkit.demo.recipe.twigstage import TwigStage
from twigkit.demo.world import draw, draw_with_owners

PACKER = Packer(vocabulary())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(build_config(len(vocabulary()), layers=6))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.12)
    target = tmp_path_factory.mktemp("evaluate") / "base"
    export_base(model, target, "# card\n")
    return target


@pytest.fixture(scope="module")
def stage(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TwigStage:
    pool = Pool(tmp_path_factory.mktemp("pool"), 8)
    schedule = Schedule(steps=2, rate=1e-3, warmup=1)
    return TwigStage(folder, PACKER, pool, schedule, batch=4, seed=1, compiled=False)


def test_generation_without_wipe_is_that_of_transformers(folder: Path) -> None:
    model, processor = load_base(folder), AutoProcessor.from_pretrained(folder)
    visual, _ = see(model, [FIRST, FIRST + 1])
    mine = generate(model, visual, PACKER.encode("list everything you see ."), None, limit=12)
    text = "USER: <image>\nlist everything you see . ASSISTANT:"
    for row, seed in enumerate((FIRST, FIRST + 1)):
        inputs = processor(images=draw(scene_of(seed)), text=text, return_tensors="pt")
        theirs = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        answer = theirs[0, inputs["input_ids"].shape[1] :].tolist()
        assert mine[row][: len(answer)] == answer
    wiped = generate(model, visual, PACKER.encode("list everything you see ."), 2, limit=12)
    assert wiped != mine


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


def test_the_card_shows_what_was_measured() -> None:
    shares = dict.fromkeys((*SHORT, "all"), 0.123)
    names = ("exact", "wiped", "shuffled", "last_quarter_skipped")
    tables = dict.fromkeys((*names, "kept_11_things_first", "kept_11_random"), shares)
    long = {"facts": 0.9, "wrong": 0.01, "exact": 0.5, "ended": 1.0, "tokens": 80.4}
    figures = {**tables, "scenes": 480, "descriptions": long, "descriptions_wiped": long}
    text = card(figures | {"ngram_accepted_length": 2.31})
    assert "| relation | 12.3 |" in text
    assert "90.0 % of the facts" in text
    assert "2.31" in text


def test_the_twig_is_trained_on_what_it_will_compute(stage: TwigStage) -> None:
    turns = PACKER.sample(scene_of(HELD_OUT), random.Random(0))[:2]
    packed = PACKER.pack([turns])
    picture = draw_with_owners(scene_of(HELD_OUT))[0]
    with torch.no_grad():
        mine = stage._logits(picture[None], packed)[0][packed.block[0] == 1]
        text = f"USER: <image>\n{turns[1].question} ASSISTANT: {turns[1].answer}</s>"
        processor = AutoProcessor.from_pretrained(stage.base.config._name_or_path)
        inputs = processor(images=draw(scene_of(HELD_OUT)), text=text, return_tensors="pt")
        hidden = stage.base(**inputs, output_hidden_states=True).hidden_states[2]
        positions = torch.arange(hidden.shape[1])[None]
        table = stage.base.model.language_model.rotary_emb(hidden, positions)
        for layer in stage.twig.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=table)
        theirs = stage.twig.head("lm")(stage.twig.norm(hidden))[0, 2 + VISUAL :]
    assert mine.shape == theirs.shape
    assert F.cosine_similarity(mine, theirs, dim=-1).min() > 0.999


def test_twig_training_leaves_the_base_alone(stage: TwigStage, tmp_path: Path) -> None:
    base = [p.clone() for p in stage.base.parameters()]
    twig = [p.clone() for p in stage.twig.parameters()]
    assert train(stage, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(base, stage.base.parameters(), strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(twig, stage.twig.parameters(), strict=True)]
    assert all(moved)
