"""Windows in configurations: where the family makes a mask of them, and where it does not."""

from __future__ import annotations

import logging

import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel

ONE = llava_inputs([(3, 1, 5)])


@torch.inference_mode()
def test_a_window_that_the_family_ignores_is_ignored():
    """A Llama's configuration may carry one; transformers makes no mask of it.

    Without a cache: transformers would make one that holds the window only.
    """
    base = tiny_llava(layers=4)
    base.config.text_config.sliding_window = 8
    inputs = llava_inputs([(3, 1, 5), (6, 1, 2)])
    own = base.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(TwigModel(base).generate(**inputs, max_new_tokens=8), own)
    assert TwigModel(base).stack.windows(0, 4) == {None}


def test_a_window_that_only_the_cache_of_transformers_heeds_is_said(caplog):
    base = tiny_llava(layers=4)
    base.config.text_config.sliding_window = 28
    forgets = base.generate(**ONE, max_new_tokens=12, do_sample=False)
    model = TwigModel(base)
    with caplog.at_level(logging.WARNING, "twigkit"):
        short = model.generate(**ONE, max_new_tokens=2)
        assert caplog.messages == []
        assert torch.equal(short, base.generate(**ONE, max_new_tokens=2, do_sample=False))
        assert not torch.equal(model.generate(**ONE, max_new_tokens=12), forgets)
    (said,) = caplog.messages
    assert "a sliding window of 28 tokens, of which this family makes no mask" in said
