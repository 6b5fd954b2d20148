"""A call of generate, resolved once: the prompt, the strategies, the seeds and what is streamed."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessor

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, InputError, TwigModel, TwigSpec
from twigkit.generation.request import GenerationRequest, NoDrafter
from twigkit.generation.strategy import Strategy
from twigkit.strategies.ssd import PathDrafter
from twigkit.strategies.ttp import TtpPruner

INPUTS = llava_inputs([(3, 1, 5), (2, 1, 3)])


@pytest.fixture(scope="module")
def model():
    made = TwigModel(tiny_llava(layers=4))
    made.grow(TwigSpec(base="tiny", exit_layer=2, depth=1)).eval()
    return made


def resolve(model, inputs=None, *, strategy=None, call=None, **arguments):
    arguments = {**INPUTS, "max_new_tokens": 4, **arguments}
    strategy = Strategy() if strategy is None else strategy
    return GenerationRequest.resolve(model, inputs, arguments, strategy, **(call or {}))


def test_a_call_without_a_budget_prunes_nothing(model):
    request = resolve(model)
    assert request.pruner is None
    assert request.budget == 1.0
    assert isinstance(request.drafter, PathDrafter)
    assert request.stop.max_new_tokens == 4
    assert request.seeds == []
    assert set(request.inputs) == set(INPUTS), "no setting is left for the model"


def test_the_strategy_of_a_call_is_kept(model):
    strategy = Strategy(0.25, "ttp", "plain", 3, strict=True, draft_cache="kept")
    request = resolve(model, strategy=strategy, call={"bucketed": True})
    assert isinstance(request.pruner, TtpPruner)
    assert (request.budget, request.wipe_layer, request.strict) == (0.25, 3, True)
    assert (request.draft_cache, request.bucketed) == ("kept", True)


def test_ids_may_be_the_first_argument(model):
    rest = {name: value for name, value in INPUTS.items() if name != "input_ids"}
    request = GenerationRequest.resolve(model, INPUTS["input_ids"], rest, Strategy())
    assert torch.equal(request.input_ids, INPUTS["input_ids"])
    assert "input_ids" not in rest, "the caller's mapping stays as it is"
    with pytest.raises(InputError, match="given twice"):
        resolve(model, INPUTS["input_ids"])
    with pytest.raises(InputError, match=r"is a dict; unpack it: generate\(\*\*inputs\)"):
        resolve(model, INPUTS)


@pytest.mark.parametrize(
    ("call", "seeds"),
    [
        ({"seed": 5}, [5, 6, 7, 8]),
        ({"seed": [4, 3, 2, 1]}, [4, 3, 2, 1]),
        ({"generator": torch.Generator().manual_seed(1)}, None),
    ],
    ids=["one", "each", "drawn"],
)
def test_every_answer_has_a_seed_of_its_own(model, call, seeds):
    request = resolve(model, call=call, do_sample=True, num_return_sequences=2)
    assert request.answers == 2
    assert list(request.seeds) == seeds if seeds else len(set(request.seeds)) == 4
    assert torch.equal(request.input_ids, INPUTS["input_ids"].repeat_interleave(2, 0))


def test_several_answers_embed_their_prompt_once(model):
    request = resolve(model, do_sample=True, num_return_sequences=3)
    seen = []
    hook = model.base.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len((*args, *kwargs.values())[0])),
        with_kwargs=True,
    )
    with torch.inference_mode():
        prompt = request.embed(model.stack)
        hook.remove()
        once = model.stack.embed_prompt(**INPUTS)
    assert seen == [2], "two pictures, each once"
    assert torch.equal(prompt.hidden, once.hidden.repeat_interleave(3, 0))
    assert torch.equal(prompt.next_rope, once.next_rope.repeat_interleave(3, 0))
    assert prompt.lengths == [length for length in once.lengths for _ in range(3)]
    assert prompt.visual_counts == [16] * 6


class AllRows(LogitsProcessor):
    """Looks at all rows at once, for all that is known."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Change nothing."""
        return scores


def test_what_must_see_all_rows_turns_drafting_off_and_says_so_to_the_caller(model):
    with pytest.warns(UserWarning, match="AllRows: not known to depend") as caught:
        request = resolve(model, logits_processor=[AllRows()])
    assert isinstance(request.drafter, NoDrafter)
    with pytest.warns(UserWarning, match="the drafter 'ssd' is left out") as caught:
        model.generate(**INPUTS, max_new_tokens=2, logits_processor=[AllRows()])
    assert [warning.filename for warning in caught] == [__file__]


def test_padding_that_is_moved_is_told_to_the_caller(model):
    turned = {name: value.flip(1) for name, value in INPUTS.items() if value.ndim == 2}
    with pytest.warns(UserWarning, match="padded on the right") as caught:
        model.generate(**{**INPUTS, **turned}, max_new_tokens=2)
    assert [warning.filename for warning in caught] == [__file__]


def test_misspelt_arguments_are_refused_with_those_that_were_meant(model):
    with pytest.raises(InputError, match="did you mean 'drafter'"):
        resolve(model, draftr="ssd")


def test_what_the_adapter_does_not_declare_is_refused(model):
    with pytest.raises(CapabilityError, match="takes no video"):
        resolve(model, pixel_values_videos=torch.zeros(1, 3, 16, 16))


class Streamer:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list = []

    def put(self, value: torch.Tensor) -> None:
        """Take a value."""
        self.told.append(value.tolist())

    def end(self) -> None:
        """Take the end."""
        self.told.append("end")


def test_a_streamer_gets_the_prompt_and_each_of_several_its_own_without_padding(model):
    one, streamer = llava_inputs([(3, 1, 5)]), Streamer()
    request = resolve(model, **one, streamer=streamer)
    request.stream_prompts(request.embed(model.stack))
    assert streamer.told == [one["input_ids"].tolist()]
    two, streamers = llava_inputs([(3, 1, 5), (2, 0, 1)]), [Streamer(), Streamer()]
    request = resolve(model, **two, streamer=streamers)
    request.stream_prompts(request.embed(model.stack))
    ids, mask = two["input_ids"], two["attention_mask"].bool()
    assert [each.told for each in streamers] == [
        [[row[valid].tolist()]] for row, valid in zip(ids, mask, strict=True)
    ]
