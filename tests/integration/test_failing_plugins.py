"""A plug-in that fails while it works is named, and hurts nobody else."""

import logging

import pytest
import torch

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.errors import PluginError, PluginWarning
from twigkit.families.resolve import find_adapter
from twigkit.interfaces import Adapter, PathShape
from twigkit.plugins.discovery import default_registry
from twigkit.plugins.registry import Entry


class Breaking(PathShape):
    """Fails in its second step."""

    capabilities, heads, height = frozenset(), (), 2

    def __init__(self):
        self.calls = 0

    def draft(self, draft_model, candidates, room):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("no idea what comes next")
        return candidates


@pytest.fixture(scope="module")
def model():
    model = TwigModel(tiny_llava())
    torch.manual_seed(0)
    model.grow(TwigSpec(base="tiny"))
    return model


def test_a_drafter_that_fails_is_named_and_the_next_call_is_right(model):
    inputs = llava_inputs([(3, 1, 4)])
    with pytest.raises(PluginError, match="the drafter Breaking failed: RuntimeError: no idea"):
        model.generate(**inputs, drafter=Breaking(), max_new_tokens=8)
    found = model.generate(**inputs, max_new_tokens=8)
    assert torch.equal(found, model.base.generate(**inputs, max_new_tokens=8, do_sample=False))


def test_a_pruner_that_fails_is_named(model, monkeypatch):
    pruner = default_registry().get("pruner", "random").cls

    def select(self, stage, context):
        raise ValueError("nothing to keep")

    monkeypatch.setattr(pruner, "select", select)
    with pytest.raises(PluginError, match=r"the pruner 'random' of twigkit .*nothing to keep"):
        model.generate(**llava_inputs([(3, 1, 4)]), budget=0.5, pruner="random", max_new_tokens=2)


def test_an_adapter_that_cannot_tell_claims_nothing(model, monkeypatch):
    class Unsure(Adapter):
        @classmethod
        def recognises(cls, config):
            raise KeyError("vision")

        def stack(self, model): ...

    registry = default_registry()
    entries = [*registry.entries("adapter"), Entry("adapter", "unsure", Unsure, None, "odd", "1.0")]
    monkeypatch.setattr(registry, "entries", lambda kind: entries)
    with pytest.warns(PluginWarning, match=r"'unsure' of odd 1\.0 .* raised KeyError: 'vision'"):
        adapter = find_adapter(model.base.config.to_dict())
    assert type(adapter).__name__ == "LlavaAdapter"


def test_what_is_done_is_logged_by_module(model, caplog):
    with caplog.at_level(logging.DEBUG, logger="twigkit"):
        find_adapter(model.base.config.to_dict())
        model.generate(**llava_inputs([(3, 1, 4)]), max_new_tokens=3)
    told = {record.name: record.getMessage() for record in caplog.records}
    assert "llava is served by twigkit" in told["twigkit.families.resolve"]
    assert "steps=" in told["twigkit.generation.loop"]
