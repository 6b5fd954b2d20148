"""An arena hands out the same memory again, zeroed, and says what lies in it."""

import torch

from twigkit.backbone.arena import Arena


def test_the_same_memory_is_handed_out_again():
    arena = Arena(1024)
    like = torch.empty(0, dtype=torch.bfloat16)
    first, second = arena.zeros(like, (2, 5)), arena.zeros(like, (3,))
    assert first.dtype == torch.bfloat16
    assert second.data_ptr() - first.data_ptr() == 256
    first.fill_(7)
    arena.rewind()
    again = arena.zeros(torch.empty(0), (2, 5))  # in another precision
    assert again.data_ptr() == first.data_ptr()
    assert not again.any()
    assert arena.holds(again)
    assert arena.holds(again[1:])
    assert not arena.holds(torch.zeros(3))


def test_what_does_not_fit_is_counted_and_lies_elsewhere():
    for arena in (Arena(), Arena(300)):
        tensors = [arena.zeros(torch.empty(0), (70,)) for _ in range(3)]
        assert arena.used == 3 * 512
        assert sum(arena.holds(tensor) for tensor in tensors) == (arena.size > 0)
        assert not any(tensor.any() for tensor in tensors)
