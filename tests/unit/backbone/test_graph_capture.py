"""What surrounds a capture, by torch's own context of a graph over a device that is made up."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest
import torch

from twigkit.backbone import graph_capture
from twigkit.backbone.graph_capture import capture
from twigkit.errors import PluginError

SIDE = SimpleNamespace(name="side", device=torch.device("cuda", 1))
POOL = (0, 7)


class Device:
    """Notes what is asked of a GPU, as torch's own code asks it."""

    def __init__(self, monkeypatch):
        self.events, self.current, self.ends = [], "main", True
        self.draws, self.broken = True, False
        note = self.events.append
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self.graph)
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(note(str(device))))
        monkeypatch.setattr(torch.cuda, "current_stream", self.current_stream)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch, "zeros", self.zeros)
        for name, does in {
            "_host_emptyCache": lambda: None,
            "_cuda_clearCublasWorkspaces": lambda: note("clear"),
            "_cuda_endAllocateToPool": self.end_allocating,
            "_cuda_releasePool": lambda index, pool: note(("release", index, pool)),
        }.items():
            monkeypatch.setattr(torch._C, name, does, raising=False)
        self.allocating = False

    def graph(self):
        ends, self.ends = self.ends, not self.broken  # what is captured afterwards is another graph

        def begin(pool=None, **options):
            assert options["capture_error_mode"] == "thread_local"
            self.allocating, self.draws = True, False
            self.events.append(("begin", pool, self.current))

        def end():
            if not ends:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.allocating, self.draws = False, True
            self.events.append("end")

        return SimpleNamespace(capture_begin=begin, capture_end=end, replay="replayed")

    def zeros(self, count, device):
        assert (count, device) == (1, SIDE.device)
        self.events.append("zeros")

    def current_stream(self, device=None):
        assert device in (None, SIDE.device)
        return SimpleNamespace(name=self.current)

    def end_allocating(self, index, pool):
        assert (index, pool) == (1, POOL)
        if not self.allocating:
            raise RuntimeError("not currently recording to mempool_id")
        self.allocating = False
        self.events.append("end allocating")


@pytest.fixture
def device(monkeypatch):
    device = Device(monkeypatch)

    class Stream:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.before, device.current = device.current, self.stream.name

        def __exit__(self, *error):
            device.current = self.before

    monkeypatch.setattr(torch.cuda, "stream", Stream)
    return device


def test_workspaces_are_of_the_graphs_own_pool(device):
    graph = capture(lambda: device.events.append("piece"), SIDE, POOL)
    assert graph.replay == "replayed"
    assert device.events == ["cuda:1", "clear", ("begin", POOL, "side"), "piece", "end", "clear"]
    assert device.current == "main"


@pytest.mark.parametrize("ends", [True, False], ids=["torch ends it", "torch does not"])
def test_a_capture_that_fails_leaves_nothing(device, ends):
    def piece():
        raise KeyError("a wait")

    device.ends = ends
    with pytest.raises(RuntimeError, match="'a wait'"):
        capture(piece, SIDE, POOL)
    assert device.current == "main"
    assert not device.allocating
    assert device.draws  # what torch's generator of the device refuses while it is captured
    ended = ["end"] if ends else ["end allocating", ("release", 1, POOL)]
    ended += [] if ends else [("begin", None, "side"), "zeros", "end"]
    assert device.events == ["cuda:1", "clear", ("begin", POOL, "side"), *ended, "clear"]
    device.ends = True
    assert capture(lambda: None, SIDE, POOL).replay == "replayed"


@pytest.mark.parametrize("broken", [False, True])
def test_an_end_that_fails_says_why(device, broken):
    device.ends, device.broken = False, broken  # nothing can be captured any more
    with pytest.raises(RuntimeError, match="previous error during capture"):
        capture(lambda: None, SIDE, POOL)


@pytest.mark.parametrize("ends", [True, False], ids=["torch ends it", "torch does not"])
@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=["interruption", "memory"],
)
def test_what_ends_more_than_the_capture_goes_on(device, error, ends):
    def piece():
        raise error

    device.ends = ends
    with pytest.raises(type(error)) as caught:
        capture(piece, SIDE, POOL)
    assert caught.value is error
    assert device.current == "main"
    assert not device.allocating


def test_a_plugins_error_says_that_it_cannot_be_captured(device):
    def piece():
        raise PluginError("the drafter waits")

    with pytest.raises(RuntimeError, match="the drafter waits"):
        capture(piece, SIDE, POOL)


def test_what_a_failed_piece_held_is_freed(device):
    class Held:
        pass

    def fail():
        held = Held()
        seen.append(weakref.ref(held))
        raise RuntimeError("no")

    seen = []
    with suppress(RuntimeError):
        capture(fail, SIDE, POOL)
    gc.disable()
    try:
        assert seen[0]() is None
    finally:
        gc.enable()


def test_a_torch_without_its_private_functions_still_captures(device, monkeypatch):
    for name in ("_cuda_clearCublasWorkspaces", "_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.delattr(torch._C, name)
    assert capture(lambda: None, SIDE, POOL).replay == "replayed"
    device.ends = False
    with pytest.raises(RuntimeError, match="previous error during capture"):
        capture(lambda: None, SIDE, POOL)


def test_a_graph_that_torch_did_not_end_is_kept(device, monkeypatch):
    broken = []
    monkeypatch.setattr(graph_capture, "_broken", broken)
    capture(lambda: None, SIDE, POOL)
    assert not broken
    device.ends = False
    with pytest.raises(RuntimeError):
        capture(lambda: None, SIDE, POOL)
    assert len(broken) == 1


def test_a_capture_within_a_capture_is_torchs_to_refuse(device, monkeypatch):
    kind = type(graph_capture._capturing)  # a new one, or others would wait, too
    monkeypatch.setattr(graph_capture, "_capturing", kind())
    inner = []

    def outer():
        capture(lambda: inner.append(capture(lambda: None, SIDE, POOL)), SIDE, POOL)

    thread = threading.Thread(target=outer, daemon=True)
    thread.start()
    thread.join(60)
    assert inner[0].replay == "replayed"


def test_one_thread_captures_at_a_time(device):
    done = []
    other = threading.Thread(target=lambda: capture(lambda: done.append("other"), SIDE, POOL))

    def piece():
        other.start()
        other.join(0.05)  # as long as a thread takes that need not wait
        done.append("first")

    capture(piece, SIDE, POOL)
    other.join()
    assert done == ["first", "other"]
