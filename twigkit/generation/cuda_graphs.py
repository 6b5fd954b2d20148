"""Pieces of a step as CUDA graphs: one launch in place of hundreds of kernels."""

from __future__ import annotations

import torch

from twigkit.backbone.graph_capture import capture
from twigkit.errors import CapabilityError
from twigkit.generation.captured_pieces import MOST_GRAPHS, CapturedPieces, Piece


class CudaGraphs(CapturedPieces):
    """Captures pieces as CUDA graphs, which share one pool of memory.

    They are replayed one at a time and nothing that was allocated in one outlives it, so they may
    share their memory.
    """

    def __init__(self, device: torch.device, most: int = MOST_GRAPHS) -> None:
        """Start with nothing captured.

        Args:
            device: The GPU that all pieces run on.
            most: Graphs that are kept at once.

        Raises:
            CapabilityError: If the device is no GPU of CUDA.
        """
        super().__init__(most)
        if device.type != "cuda":
            raise CapabilityError(
                f"steps are captured as CUDA graphs, but the model is on {device}; set "
                "runtime.graphs to 'auto' or 'off', or move the model to a GPU"
            )
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, piece: Piece) -> None:
        """Run a piece on a side stream, so that libraries allocate what they keep."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            piece()
        current.wait_stream(self._stream)

    def record(self, piece: Piece) -> Piece:
        """Capture a piece as a CUDA graph; nothing is computed meanwhile."""
        replay: Piece = capture(piece, self._stream, self._pool).replay
        return replay


__all__ = ["CudaGraphs"]
