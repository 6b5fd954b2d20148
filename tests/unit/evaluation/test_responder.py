"""Conversations of other evaluation programs."""

import pytest
from PIL import Image

from twigkit.errors import InputError, SpecError, TwigkitError
from twigkit.evaluation.responder import Responder

TURNS = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it ?"}]}]


@pytest.fixture(scope="module")
def responder(folders):
    return Responder(folders.base, folders.twig, budget="1/2", drafter="ssd", pruner="random")


def test_an_answer_and_its_tokens(responder):
    assert responder.spec.budget == 0.5
    text, count = responder.answer(TURNS, [Image.new("RGB", (40, 30))], max_new_tokens=4)
    assert isinstance(text, str)
    assert 1 <= count <= 4


def test_what_is_refused_is_an_error(responder, folders):
    picture = Image.new("RGB", (40, 30))
    with pytest.raises(TwigkitError, match="num_beams"):
        responder.answer(TURNS, [picture], max_new_tokens=4, num_beams=4)
    with pytest.raises(InputError, match="0 pictures given"):
        responder.answer(TURNS, [], max_new_tokens=4)
    with pytest.raises(SpecError, match="unknown pruner 'ttq'"):
        Responder(folders.base, folders.twig, pruner="ttq")
    with pytest.raises(InputError, match="prunes nothing without a budget"):
        Responder(folders.base, folders.twig, pruner="random")


def test_a_base_without_videos_says_so(responder, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match="the base takes none"):
        responder.answer(TURNS, [], [tmp_path], max_new_tokens=4)
