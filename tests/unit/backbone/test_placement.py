"""Whether a device still computes."""

import pytest
import torch

from twigkit.backbone.placement import computes


def test_a_device_that_works_computes():
    assert computes(torch.device("cpu"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("full"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_a_full_device_computes_and_a_lost_one_does_not(monkeypatch, error, expected):
    def ones(*_, **__):
        raise error

    monkeypatch.setattr(torch, "ones", ones)
    assert computes(torch.device("cuda")) is expected
