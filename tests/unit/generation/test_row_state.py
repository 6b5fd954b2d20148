"""State of rows: written when a row joins, wiped when it leaves, shared by narrower views."""

from __future__ import annotations

import torch

from twigkit.generation.row_state import MOST_ENDS, Entry, RowState


def test_a_row_joins_and_leaves_where_it_is():
    pending, seen = torch.zeros(4, 2, 3), torch.zeros(4, 6, dtype=torch.bool)
    state = RowState.allocate(4, torch.device("cpu"), pending, seen)
    first = state.narrowed(2)
    addresses = {name: tensor.data_ptr() for name, tensor in state.tensors.items()}
    state.real[1] = True  # of a row that was there before
    held = torch.arange(6) == 4
    entry = Entry(
        torch.tensor(7),
        torch.tensor(30),
        torch.tensor(31),
        left=5,
        ends=frozenset({90, 12}),
        least=torch.tensor(20),
        noise=torch.tensor(99),
        seen=held,
    )
    state.join(1, entry)
    assert first.root.tolist() == [0, 7]
    assert (first.rope[1], first.index[1], first.left[1], first.noise[1]) == (30, 31, 5, 99)
    assert first.running.tolist() == [False, True]
    assert first.place[1] == 1
    assert first.ends[1].tolist() == [12, 90, *[-1] * (MOST_ENDS - 2)]
    assert first.least[1] == 20
    assert not first.real.any()
    assert first.seen[1].tolist() == held.tolist()
    state.leave(1)
    assert not any(tensor.any() for tensor in state.tensors.values())
    assert addresses == {name: tensor.data_ptr() for name, tensor in state.tensors.items()}


def test_a_row_moves_to_a_free_place_and_more_are_made():
    state = RowState.allocate(2, torch.device("cpu"), None, None)
    state.join(1, Entry(torch.tensor(7), torch.tensor(3), torch.tensor(4), left=2))
    state.move(1, 0)
    assert state.root.tolist() == [7, 0]
    assert state.running.tolist() == [True, False]
    larger = state.grown(4)
    assert larger.index.tolist() == [4, 0, 0, 0]
    assert larger.ends[0].tolist() == [-1] * MOST_ENDS


def test_end_tokens_beyond_those_that_fit_are_left_to_the_host():
    state = RowState.allocate(1, torch.device("cpu"), None, None)
    ends = frozenset(range(20, 20 + MOST_ENDS + 3))
    state.join(0, Entry(torch.tensor(7), torch.tensor(3), torch.tensor(4), left=2, ends=ends))
    assert state.ends[0].tolist() == list(range(20, 20 + MOST_ENDS))


def test_a_row_that_may_get_no_more_tokens_does_not_run():
    state = RowState.allocate(1, torch.device("cpu"), None, None)
    assert state.real is None
    state.join(0, Entry(torch.tensor(7), torch.tensor(3), torch.tensor(3), left=0))
    assert not state.running.any()
