"""The comparisons of the kit can fail whatever is compared."""

from __future__ import annotations

import pytest
import torch

from twigkit.testing.checks import close

HIDDEN = torch.finfo(torch.float32).min


@pytest.mark.parametrize("hidden", [HIDDEN, -torch.inf])
def test_logits_that_hide_a_token_are_no_scale_of_the_others(hidden):
    want = torch.tensor([1.0, hidden, 2.0])
    close(want + 0.0, want, "the logits", "")
    for wrong in ([1.0, hidden, 3.0], [1.0, 0.5, 2.0], [1.0, torch.nan, 2.0]):
        with pytest.raises(pytest.fail.Exception, match="the logits: differs by"):
            close(torch.tensor(wrong), want, "the logits", "")


def test_rounding_is_relative_to_the_largest_value():
    want = torch.tensor([1000.0, 1.0])
    close(want + 0.05, want, "the logits", "")
    with pytest.raises(pytest.fail.Exception, match=r"differs by 0\.2"):
        close(want + 0.2, want, "the logits", "")
