"""Which prompts are lengthened to their bucket, and what counts as a difference."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from tests.support.capturing import capturing_model
from tests.support.tiny import llava_inputs
from twigkit.errors import FamilyWarning, PluginError
from twigkit.generation.prefill import Storage, prefill
from twigkit.generation.prompt_bucket import BUCKET, MOST_KINDS, PromptBuckets, difference
from twigkit.interfaces.pruner import Selection, Stage

ALONE = [(3, 1, 5)]  # 26 tokens


class Attending:
    def select(self, stage, context):
        return Selection(context.attention)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def model():
    return capturing_model()


class Prefill:
    """Prefills prompts and notes how many tokens they had."""

    def __init__(self, model):
        self.model, self.tokens = model, []

    def __call__(self, prompt):
        self.tokens.append(prompt.ids.shape[1])
        stages = [
            Stage(2, [7] * len(prompt.ids), attention="twig"),
            Stage(6, [0] * len(prompt.ids)),
        ]
        return prefill(
            self.model.stack,
            prompt,
            Storage(0, drafts=True),
            twig=self.model.twig,
            pruner=Attending(),
            stages=stages,
        )


def longer(model, run, rows=ALONE, kind=None, ends=(), buckets=None):
    """The prompt of some rows, and the tokens of what is prefilled in its place."""
    prompt = model.stack.embed_prompt(**llava_inputs(rows))
    buckets = buckets or PromptBuckets()
    found = buckets.longer(prompt, ends, model.stack, model.twig, kind, run)
    assert (found is prompt) == (found.fillers is None)
    return None if found is prompt else (found.ids.shape[1], found.fillers.tolist())


def test_what_fillers_change_is_tried_once(model):
    run, buckets = Prefill(model), PromptBuckets()
    assert longer(model, run, buckets=buckets) == (BUCKET, [6])
    assert run.tokens == [BUCKET, 26]
    assert longer(model, run, [(3, 1, 12)], buckets=buckets) == (2 * BUCKET, [31])
    assert len(run.tokens) == 2
    assert longer(model, run, kind="another", buckets=buckets) == (BUCKET, [6])
    assert len(run.tokens) == 4


def test_kinds_are_forgotten_in_the_end(model):
    run, buckets = Prefill(model), PromptBuckets()
    for kind in (*range(MOST_KINDS), 0, MOST_KINDS, 1):
        longer(model, run, kind=kind, buckets=buckets)
    assert len(run.tokens) == 2 * (MOST_KINDS + 1)
    longer(model, run, kind=0, buckets=buckets)
    assert len(run.tokens) == 2 * (MOST_KINDS + 2)


def test_a_full_bucket_has_no_fillers(model):
    run = Prefill(model)
    assert longer(model, run, [(3, 1, 11), (5, 0, 26)]) == (BUCKET, [0, 0])
    assert not run.tokens


def test_padded_rows_and_a_last_visual_token_stay_as_they_are(model):
    run = Prefill(model)
    assert longer(model, run, [(3, 1, 5), (3, 1, 4)]) is None
    assert longer(model, run, ends=[True]) is None
    assert longer(model, run, ends=[False]) is not None


@pytest.mark.parametrize("part", ["base", "twig", "recurrent", "mixing"])
def test_layers_that_may_see_fillers_get_none(model, part):
    prompt = model.stack.embed_prompt(**llava_inputs(ALONE))
    if part == "recurrent":
        model.stack.recurrent = frozenset({3})
    elif part == "mixing":
        model.stack.mixes_rows = True
    else:
        layers = {"base": model.base.model.language_model.layers, "twig": model.twig.layers}
        layers[part][1].mlp.register_forward_hook(lambda module, args, output: None)
    run = Prefill(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PromptBuckets().longer(prompt, [], model.stack, model.twig, None, run) is prompt
    assert not run.tokens


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("two are too many\nat once"), PluginError("two are too many")]
)
def test_what_fails_gets_no_fillers(model, error):
    def run(prompt):
        raise error

    with pytest.warns(FamilyWarning, match=r"prefill fails \(two are too many\) where fillers"):
        assert longer(model, run) is None


@pytest.mark.parametrize("what", ["scores", "keys or values", "states"])
def test_what_differs_is_said_once(model, what):
    real, buckets = Prefill(model), PromptBuckets()

    def run(prompt):
        filled = real(prompt)
        if prompt.fillers is not None:
            changed(filled, what)
        return filled

    with pytest.warns(FamilyWarning, match=f"prefill gives other {what} where fillers follow"):
        assert longer(model, run, buckets=buckets) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert longer(model, run, buckets=buckets) is None


def changed(filled, what, by=1.0, of=None):
    """Change something of what prefill gave in place, of keys or values those of some tokens."""
    noise = torch.Generator().manual_seed(1)
    tensor = {
        "scores": lambda: filled.kept[0].scores,
        "states": lambda: filled.hidden,
        "keys or values": lambda: filled.cache.base[-1].storages[1][-1, :, :, :of],
        "twig": lambda: filled.cache.twig.storages[0][0, :, :, :of],
    }[what]()
    drawn = torch.randn(tensor.shape, generator=noise)
    tensor.add_(drawn * (by * tensor.norm() / drawn.norm()))


def test_rounding_is_no_difference(model):
    prompt = model.stack.embed_prompt(**llava_inputs([(3, 1, 5), (1, 1, 7)]))
    run = Prefill(model)
    for what in ("scores", "states", "keys or values", "twig"):
        one, other = run(prompt), run(prompt)
        changed(one, what, by=0.02)
        assert difference(one, other) == ""
        changed(one, what, by=0.7)
        assert difference(one, other) == {"twig": "keys or values"}.get(what, what)


def test_other_keys_of_a_few_tokens_are_no_difference(model):
    prompt = model.stack.embed_prompt(**llava_inputs(ALONE))
    run = Prefill(model)
    one, other = run(prompt), run(prompt)
    for what in ("keys or values", "twig"):
        changed(one, what, of=4)
    assert one.cache.base[-1].lengths.host == [10]
    assert difference(one, other) == ""
    changed(one, "keys or values", of=6)
    assert difference(one, other) == "keys or values"


def test_nothing_is_compared_after_a_tie(model):
    prompt = model.stack.embed_prompt(**llava_inputs(ALONE))
    run = Prefill(model)
    one, other = run(prompt), run(prompt)
    one.kept[0] = replace(one.kept[0], positions=one.kept[0].positions.roll(1, 1))
    for what in ("states", "keys or values", "twig"):
        changed(one, what)
    assert difference(one, other) == ""
    one.cache.base[0].storages[0][1].neg_()
    assert difference(one, other) == "keys or values"


def test_other_lengths_are_a_difference(model):
    prompt = model.stack.embed_prompt(**llava_inputs(ALONE))
    one, other = Prefill(model)(prompt), Prefill(model)(prompt)
    one.cache.deep[0] = one.cache.deep[0].without_last(1)
    assert difference(one, other) == "keys or values"
