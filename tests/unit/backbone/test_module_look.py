"""A look at modules notices what a run of them would see, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from twigkit.backbone.module_look import Look


class Part(nn.Module):
    """A module with all that is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("table", torch.zeros(3))
        self.scale = 0.5


def idle(module, args, output):
    """A hook such as transformers leaves on layers."""


idle.__module__ = "twigkit"


@pytest.mark.parametrize(
    "change",
    [
        lambda part: setattr(part.linear.weight, "data", part.linear.weight.data.clone()),
        lambda part: setattr(part.linear, "weight", nn.Parameter(part.linear.weight.data)),
        lambda part: setattr(part, "table", part.table.clone()),
        lambda part: part.register_buffer("other", torch.zeros(1)),
        lambda part: setattr(part, "linear", nn.Linear(3, 3)),
        lambda part: setattr(part, "scale", 0.25),
        lambda part: part.linear.register_forward_hook(idle),
        lambda part: part.linear.register_forward_pre_hook(idle),
        lambda part: setattr(part, "forward", part.linear.forward),
        lambda part: part.to(torch.bfloat16),
    ],
)
def test_a_change_is_noticed(change):
    part = Part()
    look = Look(part)
    assert look.plain
    assert look.holds(part)
    assert not look.holds(Part())
    change(part)
    assert not look.holds(part)
    assert Look(part).holds(part)


def test_what_changes_in_place_or_idles_is_no_change(monkeypatch):
    part = Part()
    look = Look(part)
    with torch.no_grad():
        part.linear.weight.mul_(2)
    part.train(mode=not part.training)
    monkeypatch.setattr(idle, "__module__", "transformers.utils.output_capturing")
    part.register_forward_hook(idle)
    assert look.holds(part)
    assert Look(part).plain
    assert look.devices == {torch.device("cpu")}
