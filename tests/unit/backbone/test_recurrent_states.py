"""States of recurrent layers begin with the first tokens, follow the rows, and are few."""

import pytest
import torch

from twigkit import CapabilityError
from twigkit.backbone.kv_cache import Segment
from twigkit.backbone.recurrent_states import RecurrentStates


def states(rows, tokens):
    return torch.arange(float(rows * 2 * tokens)).reshape(rows, 2, tokens)


def test_a_state_is_there_after_the_first_tokens_and_keeps_the_last_ones():
    held = RecurrentStates({1})
    assert held.get_conv_state(1) is None
    assert not held.has_previous_state(1)
    first = states(2, 5)
    assert torch.equal(held.update_conv_state(first, 1, conv_kernel_size=3), first)
    assert torch.equal(held.get_conv_state(1), first[:, :, 2:])
    more = held.update_conv_state(states(2, 1), 1)
    assert more.shape == (2, 2, 4)
    assert held.get_recurrent_state(1) is None
    held.update_recurrent_state(torch.ones(2, 3), 1)
    assert held.get_recurrent_state(1).shape == (2, 3)
    assert not held.is_recording_past(1)


def test_states_go_with_their_rows():
    held = RecurrentStates({1})
    whole = states(3, 4)
    held.update_conv_state(whole, 1, conv_kernel_size=2)
    held.update_recurrent_state(torch.tensor([[1.0], [2.0], [3.0]]), 1)
    held.carry_rows([2, 1])
    assert torch.equal(held.get_conv_state(1), whole[[2, 1], :, 2:])
    assert held.get_recurrent_state(1).flatten().tolist() == [3.0, 2.0]
    assert sum(each.numel() for each in held.carried()) == 2 * 2 * 2 + 2


def test_a_layer_that_nobody_calls_recurrent_is_refused():
    with pytest.raises(CapabilityError, match="layer 2 carries a state"):
        RecurrentStates({1}).get_conv_state(2)
    segment = Segment(0, 4, 8, recurrent={1})
    with pytest.raises(CapabilityError, match="layer 0 carries a state"):
        segment.update_conv_state(states(1, 2), 0)
    segment.update_conv_state(states(1, 2), 1, conv_kernel_size=2)
