"""Where the base reads: what is counted, and that it is the attention of the stock model."""

import torch

from twigkit.demo.recipe import reading
from twigkit.demo.recipe.accuracy import WEIGHTS


def test_every_layer_is_looked_at():
    found = reading.measure(WEIGHTS / "base", 6)
    assert 4 <= found["questions"] <= 6
    for layers in (*found["shown"].values(), found["visual"]):
        assert len(layers) == 32
        assert all(0 <= share <= 1 for share in layers)
    assert max(found["shown"]["rows of the answer"]) >= 0.5, "somewhere it reads"


def test_all_tokens_show_all(monkeypatch):
    monkeypatch.setattr(reading, "KEPT", 144)
    found = reading.measure(WEIGHTS / "base", 2)
    assert found["shown"]["last prompt row alone"] == [1.0] * 32


def test_means_are_over_questions():
    assert reading._mean(torch.tensor([[True, False], [True, True]])) == [1.0, 0.5]
