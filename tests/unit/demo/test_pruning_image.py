"""What pruners keep, read from their runs, and the picture of it."""

import pytest
import torch
from PIL import Image

from tests.support.checkpoints import tiny_processor
from twigkit import CapabilityError, InputError, TwigModel
from twigkit.adapters.llava_next import LlavaNextAdapter
from twigkit.adapters.qwen2_vl import Qwen2VlAdapter
from twigkit.adapters.video_llava import VideoLlavaAdapter
from twigkit.demo.overlay import draw_survival
from twigkit.demo.pruning_image import (
    PrunedTokens,
    prune_tokens,
    render_pruning,
    token_grids,
    usable_pruners,
)
from twigkit.demo.unseen import unseen
from twigkit.interfaces import TinyRow, spread_weights
from twigkit.io.processors import prepare


@pytest.fixture(scope="module")
def model(folders):
    return TwigModel.from_pretrained(folders.base, twig=folders.twig)


@pytest.fixture(scope="module")
def prompt():
    return prepare(tiny_processor(), "what is there ?", [unseen(1)[0].picture])


def test_one_cut(model, prompt):
    found = prune_tokens(model, prompt, "divprune", 8)
    assert len(found.kept) == 8
    assert found.cuts == (8,)
    assert found.average == 8.0
    assert set(found.survived) == {0.0, 1.0}


def test_several_cuts_fade_by_how_many_keep_a_token(model, prompt):
    found = prune_tokens(model, prompt, "sparsevlm", 8)
    assert len(found.cuts) == 2
    assert found.cuts[0] > found.cuts[1] == len(found.kept)
    assert sum(share == 0.5 for share in found.survived) == found.cuts[0] - found.cuts[1]
    assert 8.0 <= found.average < 9.0


def test_no_pruning_keeps_all(model, prompt):
    found = prune_tokens(model, prompt, "none", 8)
    assert len(found.kept) == 16
    assert (found.cuts, found.average) == ((), 16.0)
    assert set(found.scores) == {0.0}


def test_prompts_without_pictures_have_nothing_to_show(model):
    words = prepare(tiny_processor(), "what is there ?")
    with pytest.raises(InputError, match="no visual tokens"):
        prune_tokens(model, words, "divprune", 8)
    with pytest.raises(InputError, match="no square to draw"):
        token_grids(model, words)


def test_what_base_and_twig_can_serve(model):
    assert usable_pruners(model, ("ttp", "none", "visionzip")) == ["ttp", "none", "visionzip"]
    bare = TwigModel(model.base)
    assert "ttp" not in usable_pruners(bare)
    assert "fastv" in usable_pruners(bare)
    blind = TwigModel(model.base)
    blind.adapter.capabilities = model.adapter.capabilities - {"vision"}
    assert "visionzip" not in usable_pruners(blind)
    with pytest.raises(CapabilityError, match="does not declare 'vision'"):
        prune_tokens(blind, prepare(tiny_processor(), "?", [unseen(1)[0].picture]), "visionzip", 8)


GRIDS = [
    (VideoLlavaAdapter, "video", [(4, 4)] * 3),  # between class tokens
    (VideoLlavaAdapter, "image", [(4, 4)]),
    (LlavaNextAdapter, "image", [(4, 4)]),  # the overview
    (Qwen2VlAdapter, "image", None),
    (Qwen2VlAdapter, "video", None),
]


@pytest.mark.parametrize(("adapter", "kind", "want"), GRIDS)
@torch.inference_mode()
def test_grids_of_families(adapter, kind, want):
    family = adapter().tiny()
    spread_weights(family.model)
    inputs = family.inputs([TinyRow((kind,), 3, 1)])
    model = TwigModel(family.model)
    grids = token_grids(model, inputs)
    if want is None:  # of patches in time, height and width, four to a token
        ((frames, height, width),) = inputs[f"{kind}_grid_thw"].tolist()
        want = [(height // 2, width // 2)] * frames
    assert grids == want
    count = int(model.stack.visual_positions(inputs["input_ids"], inputs).sum())
    assert sum(rows * columns for rows, columns in grids) <= count


def pruned(name, tokens=16):
    survived = tuple(float(token < 4) for token in range(tokens))
    return PrunedTokens(name, (0, 1, 2, 3), survived, (4,), survived, 4.0)


def test_pictures_stand_side_by_side_and_wrap():
    picture = Image.new("RGB", (32, 32), "navy")
    few = render_pruning([picture], [(4, 4)], [pruned("a"), pruned("b")], "what ?")
    many = render_pruning([picture], [(4, 4)], [pruned(str(n)) for n in range(6)])
    assert few.width < many.width
    assert few.height < many.height
    assert (0, 0, 128) in {color for _, color in few.getcolors(1 << 20)}


def test_a_video_is_a_strip_of_frames():
    frames = [Image.new("RGB", (32, 32), (60 * number, 0, 90)) for number in range(4)]
    whole = render_pruning(frames, [(4, 4)] * 4, [pruned("a", 64)])
    paired = render_pruning(frames, [(4, 4)] * 2, [pruned("a", 32)])
    colours = {color for _, color in whole.getcolors(1 << 20)}
    assert {(60 * number, 0, 90) for number in range(4)} <= colours
    assert paired.width < whole.width  # two frames make a token together: the first is drawn
    assert (60, 0, 90) not in {color for _, color in paired.getcolors(1 << 20)}


def test_what_some_cuts_keep_is_paler():
    picture = Image.new("RGB", (8, 8), "black")
    drawn = draw_survival(picture, (1, 3), (1.0, 0.5, 0.0), 20)
    whole, half, gone = (drawn.getpixel((20 * token + 10, 10))[0] for token in range(3))
    assert whole == 0 < half < gone
