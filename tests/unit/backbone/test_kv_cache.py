"""The KV cache grows as needed and loses nothing on the way."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import CapabilityError, TwigModel, TwigSpec
from twigkit.backbone import kv_cache
from twigkit.backbone.kv_cache import BUCKET, Segment
from twigkit.backbone.row_counts import RowCounts

BATCH = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])


def filled(lengths, most, bucketed=False):
    """A segment of one layer that holds prompts of some lengths; its keys are the indices."""
    segment = Segment(0, 1, most, bucketed=bucketed)
    index = torch.arange(max(lengths)).expand(len(lengths), -1)
    segment.begin_prefill(index, index < torch.tensor(lengths)[:, None], lengths)
    states = index[:, None, :, None].float()
    segment.update(states, states, 0)
    return segment


@pytest.mark.parametrize("bucketed", [False, True])
def test_storage_grows_with_the_text_and_keeps_it(bucketed):
    segment = filled([5, 3], 200_000, bucketed)
    assert segment.capacity == 2 * BUCKET
    small = segment.bytes_allocated()
    device = segment.index.device
    for step in range(400):
        index = segment.lengths.device[:, None] + torch.arange(3)
        segment.begin_step(index)
        states = index[:, None, :, None].float()
        keys, _ = segment.update(states, states, 0)
        assert keys.shape[2] == segment.view >= segment.limit + 3
        segment.commit(RowCounts.of([2, 1 + step % 2], device))
    assert segment.lengths.host == segment.lengths.device.tolist() == [805, 603]
    assert small < segment.bytes_allocated() < 8 * small
    segment.begin_step(segment.lengths.device[:, None])
    states = segment.lengths.device[:, None, None, None].float()
    keys, values = segment.update(states, states, 0)
    for row, length in enumerate(segment.lengths.host):
        assert keys[row, 0, : length + 1, 0].tolist() == [*range(length + 1)]
        assert torch.equal(keys, values)
        assert segment.index[row, : length + 1].tolist() == [*range(length + 1)]


def test_the_last_tokens_of_a_prompt_can_be_dropped():
    segment = filled([5, 3], 9)
    shorter = segment.without_last(2)
    assert shorter.lengths.host == shorter.lengths.device.tolist() == [3, 1]
    assert segment.lengths.host == segment.lengths.device.tolist() == [5, 3]
    shorter.begin_step(torch.tensor([[7], [8]]))
    states = torch.tensor([7.0, 8.0])[:, None, None, None]
    keys, _ = shorter.update(states, states, 0)
    assert keys[0, 0, :4, 0].tolist() == shorter.index[0, :4].tolist() == [0, 1, 2, 7]
    assert keys[1, 0, :2, 0].tolist() == shorter.index[1, :2].tolist() == [0, 8]


def test_it_grows_no_further_than_it_may():
    segment = filled([5], 9)
    assert segment.capacity == 9
    segment.begin_step(torch.arange(5, 9)[None])
    with pytest.raises(CapabilityError, match="10 tokens do not fit a capacity of 9"):
        segment.begin_step(torch.arange(9, 10)[None])


@pytest.mark.parametrize("drafter", ["plain", "ssd", {"kind": "tree-ssd", "threshold": 0.0}])
@pytest.mark.parametrize("bucketed", [False, True])
def test_an_answer_over_many_growths_is_the_same(monkeypatch, drafter, bucketed):
    model = TwigModel(tiny_llava())
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=3)).eval()
    own = model.base.generate(**BATCH, max_new_tokens=60, do_sample=False)
    pruned = model.generate(**BATCH, max_new_tokens=60, drafter="plain", budget=0.4)
    monkeypatch.setattr(kv_cache, "BUCKET", 4)
    options = {"max_new_tokens": 60, "drafter": drafter, "bucketed": bucketed}
    assert torch.equal(own, model.generate(**BATCH, **options))
    for cache in ("full", "kept"):
        again = model.generate(**BATCH, **options, budget=0.4, draft_cache=cache)
        assert torch.equal(pruned, again)


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize(
    "drafter",
    ["plain", "ssd", "tree-ssd", "auto", "medusa-tree", "ngram", "prompt-lookup"],
)
def test_no_tensor_is_as_long_as_an_answer_might_be(drafter, bucketed):
    model = TwigModel(tiny_llava(context=300_000))
    heads = {"lm": {"kind": "lm"}, "medusa": {"kind": "medusa"}}
    spec = TwigSpec(base="tiny", exit_layer=2, depth=1, heads=heads)
    model.grow(spec).eval()
    one = llava_inputs([(3, 1, 5)])
    largest = []
    for most in (1_000, 200_000):
        with Largest() as seen:
            free = model.generate(**one, max_new_tokens=3, eos_token_id=None)
            end = int(free[0, -1])
            model.generate(
                **one, max_new_tokens=most, eos_token_id=end, drafter=drafter, bucketed=bucketed
            )
        largest.append(seen.bytes)
    assert largest[0] == largest[1]


def test_tokens_that_might_come_cost_nothing():
    model = TwigModel(tiny_llava(context=300_000))
    one = llava_inputs([(3, 1, 5)])
    end = int(model.base.generate(**one, max_new_tokens=1, do_sample=False)[0, -1])
    allocated = [
        model.generate(**one, max_new_tokens=most, eos_token_id=end).stats.kv_bytes_allocated
        for most in (1_000, 200_000)
    ]
    assert allocated[0] == allocated[1]
