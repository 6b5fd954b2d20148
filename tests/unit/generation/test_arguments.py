"""What is wrong with the arguments of a call in Python is said, and nothing is swallowed unread."""

import inspect
from fractions import Fraction

import numpy
import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import InputError, SpecError, TwigkitError, TwigModel, TwigSpec

GOOD = llava_inputs([(3, 1, 5)])
IDS, MASK, PIXELS = (GOOD[name] for name in ("input_ids", "attention_mask", "pixel_values"))


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava())
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=2))
    return made


CALLS = {
    "a list of ids": ({"input_ids": IDS.tolist()}, 'return_tensors="pt"'),
    "an array of ids": ({"input_ids": IDS.numpy()}, 'return_tensors="pt"'),
    "a list of pixels": ({"pixel_values": PIXELS.tolist()}, 'return_tensors="pt"'),
    "a list for a mask": ({"attention_mask": MASK.tolist()}, 'return_tensors="pt"'),
    "one row without a batch": ({"input_ids": IDS[0]}, r"shape \(26,\)"),
    "ids with a point": ({"input_ids": IDS.float()}, "torch.float32; expected"),
    "no ids": ({"input_ids": None}, "the prompt is empty"),
    "ids of no tokens": ({"input_ids": IDS[:, :0]}, "the prompt is empty"),
    "ids of another tokenizer": ({"input_ids": IDS + 900 * (IDS < 90)}, "vocabulary 100 tokens"),
    "ids below zero": ({"input_ids": IDS - 200 * (IDS < 90)}, "the token id -"),
    "a mask of another shape": (
        {"attention_mask": MASK[:, 1:]},
        r"attention_mask has shape \(1, 25",
    ),
    "more pictures than tokens": ({"pixel_values": torch.cat([PIXELS] * 2)}, "one image token"),
    "no picture in the tensor": ({"pixel_values": PIXELS[:0]}, "the model refuses the prompt"),
    "a grey picture": ({"pixel_values": PIXELS[:, :1]}, "the model refuses the prompt"),
    "a picture of another size": ({"pixel_values": PIXELS[..., :8, :8]}, "refuses the prompt"),
    "a misspelt setting": ({"max_new_token": 3}, "did you mean 'max_new_tokens'"),
    "a misspelt budget": ({"budgett": 0.5}, "did you mean 'budget'"),
    "something unknown": ({"flavour": 3}, "takes an argument 'flavour'; leave it out"),
    "a drafter that is none": ({"drafter": object()}, "expected a name such as 'ssd'"),
    "a budget that is true": ({"budget": True}, "got True"),
    "a ratio by zero": ({"budget": "1/0"}, "got '1/0'"),
    "a ratio above one": ({"budget": Fraction(3, 2)}, "expected a whole number"),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_cannot_be_answered(model, case):
    changed, told = CALLS[case]
    with pytest.raises(TwigkitError, match=told) as refused:
        model.generate(**{**GOOD, "max_new_tokens": 2, **changed})
    assert len(str(refused.value).splitlines()) == 1


OWN = [
    name
    for name, parameter in inspect.signature(TwigModel.generate).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
]


@pytest.mark.parametrize("name", [*OWN, "streamer", "stopping_criteria"])
def test_every_argument_is_suggested_where_it_was_misspelt(model, name):
    with pytest.raises(InputError, match=f"did you mean '{name}'"):
        model.generate(**GOOD, **{name + "q": None})


@pytest.mark.parametrize(
    ("budget", "same"),
    [(numpy.int64(8), 8), (numpy.float32(0.5), 0.5), ("1/2", 0.5), (Fraction(1, 2), 0.5)],
)
def test_a_number_is_a_number_whatever_its_type(model, budget, same):
    kept = [
        model.generate(**GOOD, budget=given, max_new_tokens=1).stats.kept_tokens
        for given in (budget, same)
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("base", [None, 3, {}, TwigModel, torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_told_so(base):
    for make in (TwigModel, TwigModel.from_pretrained):
        with pytest.raises(InputError, match="expected a model of transformers"):
            make(base)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "2", "a\n", "\ud800"])
def test_a_head_is_called_by_a_name_that_can_be_saved(name):
    with pytest.raises(SpecError, match=r"(?s)heads\..*\[key\]: got .*string"):
        TwigSpec(base="tiny", depth=2, heads={name: "lm"})


@pytest.mark.parametrize("name", ["items", "training", "_modules"])
def test_a_head_has_no_name_that_torch_needs(name):
    spec = TwigSpec(base="tiny", depth=2, heads={name: "lm"})
    with pytest.raises(SpecError, match="a head cannot be called"):
        TwigModel(tiny_llava()).grow(spec)


def test_attention_that_is_not_installed_is_told(folders):
    with pytest.raises(TwigkitError, match=r"FlashAttention2.*install it"):
        TwigModel.from_pretrained(folders.base, attn_implementation="flash_attention_2")


def test_ratios_are_in_the_schema():
    import re

    from twigkit import GenerationSpec

    options = GenerationSpec.json_schema()["properties"]["budget"]["anyOf"]
    (pattern,) = [option["pattern"] for option in options if "pattern" in option]
    assert re.fullmatch(pattern, "1/9")
    assert not re.fullmatch(pattern, "half")


def test_every_argument_of_the_installed_transformers_is_in_the_tables():
    import inspect

    from transformers import GenerationConfig, GenerationMixin

    from twigkit.generation.arguments import ARGUMENTS, FIELDS

    fields = set(GenerationConfig().to_dict())
    assert fields - set(FIELDS) == set()
    parameters = inspect.signature(GenerationMixin.generate).parameters
    named = {name for name in parameters if name not in ("self", "kwargs")}
    assert named - set(ARGUMENTS) == set()
    forward = inspect.signature(tiny_llava(layers=1).forward).parameters
    pictures = {"pixel_values", "image_sizes", "mm_encoder_outputs", "kwargs"}
    pictures |= {"vision_feature_layer", "vision_feature_select_strategy"}
    assert set(forward) - set(ARGUMENTS) - set(FIELDS) - pictures == set()
    assert not set(ARGUMENTS) & set(FIELDS)


def test_the_page_about_them_is_made_from_the_tables():
    from pathlib import Path

    from twigkit.generation.arguments import document

    page = Path(__file__).parents[3] / "docs" / "generate.md"
    again = "run python -m twigkit.generation.arguments > docs/generate.md"
    assert page.read_text() == document(), again
