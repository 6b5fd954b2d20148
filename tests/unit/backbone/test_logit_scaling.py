"""A twig's heads scale their logits as the base does, so that its probabilities are comparable."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from twigkit import TwigModel, TwigSpec
from twigkit.interfaces import spread_weights, tiny_text_config


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("cohere2", {"logit_scale": 0.5}),
        ("gemma2", {"head_dim": 16, "final_logit_softcapping": 3.0}),
    ],
)
def test_fresh_heads_give_the_bases_own_logits(kind, settings):
    config = AutoConfig.for_model(kind, **tiny_text_config(**settings))
    base = spread_weights(AutoModelForCausalLM.from_config(config))
    model = TwigModel(base)
    heads = {"lm": {"kind": "lm", "rows": 90}, "medusa": {"kind": "medusa", "offsets": 1}}
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2, heads=heads)).eval()
    states = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.inference_mode():
        own = base(ids, output_hidden_states=True)
        assert torch.equal(model.stack.head(own.hidden_states[-1]), own.logits)
        expected = model.stack.head(states)
        assert torch.equal(model.twig.heads["medusa"](states)[:, :, 0], expected)
        logits = model.twig.heads["lm"](states)
    torch.testing.assert_close(logits[..., :90], expected[..., :90])
    assert torch.isinf(logits[..., 90:]).all(), "tokens that the head has not are never drafted"
