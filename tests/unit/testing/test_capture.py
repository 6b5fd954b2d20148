"""Every kind of violation that a captured step must not have turns the recorder red."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.counting import Counter
from twigkit.backbone import few_rows
from twigkit.testing.capture import CaptureError, CaptureRecorder, record


class World:
    """Tensors outside of a piece, and pieces that do what they must not."""

    def __init__(self):
        self.state, self.other = torch.zeros(4, 3), torch.ones(4, 3)
        self.kept, self.calls = None, 0

    def sound(self):
        inner = self.state @ self.other.T
        self.state.copy_(inner[:, :3].where(inner[:, :3] > 0, 0.5))

    def rebinds(self):
        self.state = self.state + 1
        self.state.mul_(2)

    def branches(self):
        self.calls += 1
        self.state.add_(1) if self.calls == 1 else self.state.mul_(2)

    def counts(self):
        self.calls += 1
        self.state.add_(self.calls)

    def adds_work(self):
        self.calls += 1
        for _ in range(self.calls):
            self.state.add_(1)

    def keeps(self):
        self.kept = self.state + 1

    def keeps_in_a_module(self):
        self.kept = nn.Linear(3, 3)

    def reads_a_number(self):
        self.state.add_(self.other.sum().item())

    def asks(self):
        if (self.other > 0).any():
            self.state.add_(1)

    def finds(self):
        self.state.add_(self.other.nonzero().sum())

    def picks(self):
        self.state.add_(self.other[self.other > 0].sum())

    def writes_where(self):
        self.state[self.other > 0] = self.other.flatten()

    def lists(self):
        self.state.add_(len(self.other.tolist()))

    def goes_to_the_host(self):
        self.state.add_(self.other.cpu())

    def becomes_numpy(self):
        self.state.add_(float(self.other.numpy()[0, 0]))

    def comes_from_the_host(self):
        self.state[0].copy_(torch.tensor([1.0, 2.0, 3.0]))

    def comes_like_another(self):
        self.state.add_(self.other.new_tensor([1.0]))

    def compares(self):
        if not torch.equal(self.state, self.other):
            self.state.add_(1)

    def repeats(self):
        counts = torch.ones(4, dtype=torch.long)
        self.state.add_(self.other.repeat_interleave(counts, 0))


AT_CAPTURE = {
    "keeps": "what aten.add allocated outlives",
    "keeps_in_a_module": "outlives the piece",
    "reads_a_number": "aten._local_scalar_dense waits",
    "asks": "waits for the device",
    "finds": "aten.nonzero waits",
    "picks": "aten.index with a bool index",
    "writes_where": "with a bool index",
    "lists": r"Tensor.tolist\(\) waits",
    "goes_to_the_host": r"Tensor.cpu\(\) waits",
    "becomes_numpy": r"Tensor.numpy\(\) waits",
    "comes_from_the_host": "made of numbers on the host",
    "comes_like_another": "made of numbers on the host",
    "compares": "aten.equal waits",
    "repeats": "waits for the device",
}
AT_REPLAY = {
    "branches": "was aten.add_ when captured and is aten.mul_ now",
    "counts": "was given the numbers",
    "adds_work": "operations were captured",
}


def test_a_sound_piece_passes_and_runs_twice():
    world, plain = World(), World()
    record(world.sound)()
    plain.sound(), plain.sound()
    assert torch.equal(world.state, plain.state)


@pytest.mark.parametrize("name", AT_CAPTURE)
def test_what_cannot_be_captured(name):
    with pytest.raises(CaptureError, match=AT_CAPTURE[name]):
        record(getattr(World(), name))


@pytest.mark.parametrize("name", AT_REPLAY)
def test_what_would_be_wrong_when_replayed(name):
    replay = record(getattr(World(), name))
    with pytest.raises(CaptureError, match=AT_REPLAY[name]):
        replay()


CHANGES = {
    "address": lambda state: state.clone(),
    "shape": lambda state: state[:2],
    "stride": lambda state: torch.as_strided(state, (4, 3), (1, 4)),
    "dtype": lambda state: state.view(torch.int32),
}


@pytest.mark.parametrize("write", [True, False], ids=["written", "read"])
@pytest.mark.parametrize("fact", CHANGES)
def test_another_address_shape_stride_or_dtype(fact, write):
    world, total = World(), torch.zeros(())
    replay = record(lambda: world.state.add_(1) if write else total.copy_(world.state.sum()))
    replay()
    world.state = CHANGES[fact](world.state)
    with pytest.raises(CaptureError, match=f"a tensor whose {fact} was"):
        replay()


def test_a_piece_that_rebinds_what_it_reads():
    with pytest.raises(CaptureError, match="outlives"):
        record(World().rebinds)


def test_python_is_where_it_was_after_a_replay():
    step, recorder = Counter(), CaptureRecorder()
    for _ in range(2):  # warmed up, captured
        assert not recorder.replay("key", step)
        recorder.run("key", step.piece, step)
    assert (float(step.value), step.python, recorder.captured) == (2.0, 2, 1)
    assert recorder.replay("key", step)
    assert (float(step.value), step.python, recorder.replays) == (3.0, 2, 1)


@torch.inference_mode()
def test_products_are_torchs_own_however_a_cpu_computes_them(monkeypatch):
    monkeypatch.setattr(few_rows, "_switch", [True])
    monkeypatch.setattr(few_rows, "_fastest", {})
    layer, states, found = nn.Linear(24, 40), torch.ones(4, 24), torch.zeros(4, 40)
    replay = record(lambda: found.copy_(few_rows.apply_linear(layer, states)))
    for _ in range(8):  # ways take turns here
        few_rows.apply_linear(layer, states)
        replay()
    step, recorder, considered = Counter(), CaptureRecorder(), []

    def piece():
        considered.append(few_rows.few_rows(states))
        step.piece()

    for _ in range(2):
        recorder.run("key", piece, step)
    recorder.replay("key", step)
    assert set(considered) == {None}
    assert few_rows.few_rows(states) == 4
