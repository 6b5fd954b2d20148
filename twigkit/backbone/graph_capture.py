"""Captures a function as a CUDA graph, so that no graph, and no failed attempt, leaves a mark."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

_capturing = threading.Lock()
"""Held while a graph is captured: torch allows one capture at a time in a process."""

_torch: Any = torch._C


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
    """
    graph, device, failed = torch.cuda.CUDAGraph(), stream.device, []
    # Other threads, of a server for example, may use the device meanwhile, but not capture.
    captured = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
    # A capture that fails would leave its stream the current one.
    before = torch.cuda.stream(torch.cuda.current_stream(device))
    with _capturing, torch.cuda.device(device), before:
        _torch._cuda_clearCublasWorkspaces()
        try:
            with captured:
                try:
                    piece()
                except BaseException as error:
                    failed.append(error)  # torch's own error says only that something failed
                    raise
        except BaseException as error:
            _abandon(device, pool)
            first = failed[0] if failed else error
            if not isinstance(first, Exception):
                raise
            raise RuntimeError(str(first) or type(first).__name__) from first
        finally:
            _torch._cuda_clearCublasWorkspaces()
    return graph


def _abandon(device: torch.device, pool: Any) -> None:
    """End a capture that torch did not end, or memory could not be freed any more.

    Args:
        device: Where it was.
        pool: Its pool.
    """
    try:
        _torch._cuda_endAllocateToPool(device.index, pool)
    except RuntimeError:
        return  # torch has
    _torch._cuda_releasePool(device.index, pool)


__all__ = ["capture"]
