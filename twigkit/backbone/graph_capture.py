"""Captures a function as a CUDA graph, so that no graph, and no failed attempt, leaves a mark."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

_capturing = threading.RLock()
"""Held while a graph is captured: torch allows one capture at a time in a process."""

_broken: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture torch did not end: its allocators may still ask them."""

_private: Any = torch._C


def capture(
    piece: Callable[[], object], stream: torch.cuda.Stream, pool: Any
) -> torch.cuda.CUDAGraph:
    """Capture a function; nothing is computed meanwhile.

    Products that ask for a workspace get one of the pool's memory. The one that torch keeps for a
    stream goes, in some versions, with the first graph that was captured there, whoever uses it.

    Args:
        piece: The function; it ran before, so that nothing is compiled or set up in it.
        stream: Where to capture; no other thread uses it.
        pool: Pool of the memory that the graph computes in.

    Returns:
        The graph.

    Raises:
        RuntimeError: If it cannot be captured; says what it could not do.
        OutOfMemoryError: If there is no room for it.
    """
    graph, device = torch.cuda.CUDAGraph(), stream.device
    first: BaseException | None = None
    # Other threads, of a server for example, may use the device meanwhile, but not capture.
    captured = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    # A capture that fails would leave its stream the current one.
    before = torch.cuda.stream(torch.cuda.current_stream(device))
    with _capturing, torch.cuda.device(device), before:
        _clear_workspaces()
        try:
            with captured:
                try:
                    piece()
                except BaseException as error:
                    first = error  # torch's own error says only that something failed
                    raise
        except BaseException as error:
            _abandon(graph, stream, pool)
            first = error if first is None else first
            if _ends_more(first):
                raise first from None
            raise RuntimeError(str(first) or type(first).__name__) from first
        finally:
            first = None  # or the error would hold what it holds for ever
            _clear_workspaces()
    return graph


def _ends_more(error: BaseException) -> bool:
    """Say whether an error ends more than the capture: an interruption, full memory."""
    return isinstance(error, torch.OutOfMemoryError) or not isinstance(error, Exception)


def _clear_workspaces() -> None:
    """Let torch forget the workspaces of products; the next ones get new ones."""
    if clear := getattr(_private, "_cuda_clearCublasWorkspaces", None):
        clear()


def _abandon(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, pool: Any) -> None:
    """End a capture that torch did not end, or memory could not be freed any more.

    Args:
        graph: What was captured.
        stream: Where it was.
        pool: Its pool.
    """
    device = stream.device
    try:
        _private._cuda_endAllocateToPool(device.index, pool)
    except (RuntimeError, AttributeError):
        return  # torch has, or cannot
    _private._cuda_releasePool(device.index, pool)
    _broken.append(graph)
    with suppress(RuntimeError):
        _let_draw(stream)


def _let_draw(stream: torch.cuda.Stream) -> None:
    """Capture something that succeeds, or nobody could draw random numbers on the device any more.

    A capture that begins tells the device's generator so, and up to torch 2.11 at least nothing but
    a capture that ends well tells it otherwise; until then ``torch.randn`` is an error there.

    Args:
        stream: Where the capture that failed was.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        torch.zeros(1, device=stream.device)


__all__ = ["capture"]
