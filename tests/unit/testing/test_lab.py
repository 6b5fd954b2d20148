"""The workbench of the kit: on whose model plug-ins are tried, and what it notes."""

from __future__ import annotations

from dataclasses import replace

import torch

from twigkit.backbone.layer_stack import LayerStack
from twigkit.plugins.discovery import default_registry
from twigkit.testing import Lab, lab, plainest_adapter


def llava():
    return default_registry().get("adapter", "llava")


def test_adapters_of_other_packages_have_no_say(monkeypatch):
    class Plainer(llava().cls):
        pass

    entry = replace(llava(), name="a", cls=Plainer, distribution="twigkit-other")

    class Registry:
        known = (entry, *default_registry().entries("adapter"))

        def entries(self, kind):
            return self.known

    registry = Registry()
    monkeypatch.setattr(lab, "default_registry", lambda: registry)
    assert type(plainest_adapter()) is llava().cls
    registry.known = (entry,)
    assert type(plainest_adapter()) is Plainer


def test_the_logits_of_a_run_are_those_of_the_stack():
    class Hiding(LayerStack):
        def head(self, hidden):
            return super().head(hidden).masked_fill(torch.arange(self.vocabulary) > 60, -1e4)

    class Adapter(llava().cls):
        def stack(self, model):
            ids = (model.config.image_token_id,)
            return Hiding(model, model.model.language_model, visual_ids=ids)

    workbench = Lab(Adapter(), Adapter().tiny())
    trace = workbench.run([workbench.visual_row()], new_tokens=3)
    assert len(trace.logits) == 3
    for logits, token in zip(trace.logits, trace.tokens[0], strict=True):
        assert int(logits.argmax()) == token
        assert bool((logits[..., 61:] == -1e4).all())
