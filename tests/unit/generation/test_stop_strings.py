"""Stop strings end an answer with every kind of tokenizer."""

from __future__ import annotations

import random
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from twigkit import InputError, TwigModel
from twigkit.demo.pool import HELD_OUT, scene_of
from twigkit.demo.world import draw
from twigkit.generation.stop_strings import DecodedStopStrings, stop_string_criterion
from twigkit.io.processors import load_processor, prepare

WEIGHTS = Path(str(files("twigkit.demo"))) / "weights"
WORDS = ["<unk>", "a", "red", "ring", "and", "the", "digit", ".", ",", "re", "ed", "rings"]


def word_level(*further: str) -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate([*WORDS, *further])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=False)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


@pytest.mark.parametrize("strings", [["red"], ["red ring", "digit ."], ["d r"], ["ings"], [" , "]])
def test_decoded_stop_strings_end_where_those_of_transformers_do(strings):
    tokenizer = word_level("abcdef")
    theirs, ours = StopStringCriteria(tokenizer, strings), DecodedStopStrings(tokenizer, strings)
    assert isinstance(stop_string_criterion(tokenizer, strings), StopStringCriteria)
    rng = random.Random(0)
    found = 0
    for _ in range(300):
        ids = torch.tensor([[5, *rng.choices(range(1, len(WORDS)), k=7)] for _ in range(4)])
        expected = theirs(ids, None)
        found += int(expected.sum())
        assert ours(ids, None).tolist() == expected.tolist(), ids
    assert found > 5


def test_a_tokenizer_that_does_not_know_the_probe_is_served():
    criterion = stop_string_criterion(word_level(), "red ring")
    assert criterion(torch.tensor([[2, 3], [2, 4], [2, 11]]), None).tolist() == [True, False, True]
    assert criterion(torch.tensor([[2, 3, 4]]), None).tolist() == [False], "done a token ago"


@pytest.fixture(scope="module")
def demo():
    model = TwigModel.from_pretrained(WEIGHTS / "base", twig=WEIGHTS / "twig", dtype=torch.float32)
    return model, load_processor(WEIGHTS / "base")


@pytest.mark.parametrize("drafter", ["plain", "ssd", "tree-ssd"])
def test_stop_strings_work_with_the_demo_model(demo, drafter):
    model, processor = demo
    tokenizer = processor.tokenizer
    inputs = prepare(processor, "describe the picture .", [draw(scene_of(HELD_OUT))])
    start, options = inputs["input_ids"].shape[1], {"max_new_tokens": 30, "drafter": drafter}
    whole = model.generate(**inputs, **options)[0, start:].tolist()
    for first, last in ((3, 5), (9, 10)):
        string = tokenizer.decode(whole[first:last])
        texts = [tokenizer.decode(whole[:count]) for count in range(1, len(whole) + 1)]
        count = 1 + next(place for place, text in enumerate(texts) if string in text)
        stopped = model.generate(**inputs, **options, stop_strings=string, tokenizer=tokenizer)
        assert stopped[0, start:].tolist() == whole[:count], string
        assert count < len(whole)


@pytest.mark.filterwarnings("error")
def test_stop_strings_of_the_demo_model_leave_a_batch_its_drafts(demo):
    model, processor = demo
    inputs = prepare(processor, "describe the picture .", [draw(scene_of(HELD_OUT))])
    start, options = inputs["input_ids"].shape[1], {"max_new_tokens": 30, "drafter": "ssd"}
    whole = model.generate(**inputs, **options)[0, start:].tolist()
    options |= {
        "stop_strings": processor.tokenizer.decode(whole[9:10]),
        "tokenizer": processor.tokenizer,
    }
    alone = model.generate(**inputs, **options)[0].tolist()
    twice = {name: value.repeat_interleave(2, 0) for name, value in inputs.items()}
    output = model.generate(**twice, **options)
    assert output.tolist() == [alone] * 2
    assert output.stats.drafted_tokens > 0


def test_a_processor_is_taken_for_the_tokenizer_that_it_holds(demo):
    """``transformers serve`` and pipelines hand over the processor."""
    model, processor = demo
    inputs = prepare(processor, "describe the picture .", [draw(scene_of(HELD_OUT))])
    whole = model.generate(**inputs, max_new_tokens=12)[0]
    options = {"max_new_tokens": 12, "stop_strings": processor.tokenizer.decode(whole[-6:-5])}
    expected = model.generate(**inputs, **options, tokenizer=processor.tokenizer)
    assert expected.shape[1] < len(whole)
    assert torch.equal(model.generate(**inputs, **options, tokenizer=processor), expected)
    with pytest.raises(InputError, match="pass tokenizer=processor"):
        model.generate(**inputs, **options, tokenizer=object())
