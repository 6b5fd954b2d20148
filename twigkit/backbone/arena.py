"""One stretch of memory that the keys and values of one prompt after the other are written to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Zeros = Callable[[Tensor, Sequence[int]], Tensor]
"""Returns zeros of a shape, in the precision and on the device of another tensor."""

_ALIGNED = 256
"""Bytes that each tensor starts at a multiple of, as those of torch's allocators do."""


class Arena:
    """Hands out tensors one after the other, the same ones again after :meth:`rewind`.

    A captured prefill has to write to the addresses of its capture. All captures write to the same
    ones, so that keys and values of one prompt are held and not those of every captured shape.

    Attributes:
        size: Bytes.
        used: Bytes that were asked for since the last rewind, beyond the size too.

    Example:
        >>> arena = Arena(1024)
        >>> first = arena.zeros(torch.empty(0), (2, 3))
        >>> arena.rewind()
        >>> arena.zeros(torch.empty(0), (2, 3)).data_ptr() == first.data_ptr()
        True
    """

    def __init__(self, size: int = 0, device: torch.device | None = None) -> None:
        """Allocate the memory.

        Args:
            size: Bytes; without any, every tensor is allocated by itself and only counted.
            device: Where.
        """
        self.size, self.used = size, 0
        self._memory = torch.empty(size, dtype=torch.uint8, device=device)

    def rewind(self) -> None:
        """Begin anew; what is handed out from now on lies where the tensors before lay."""
        self.used = 0

    def zeros(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Return zeros of a shape, in the precision of another tensor on the same device.

        What does not fit is allocated by itself.
        """
        start, wanted = self.used, math.prod(shape) * like.element_size()
        self.used += -(-wanted // _ALIGNED) * _ALIGNED
        if start + wanted > self.size:
            return like.new_zeros(shape)
        return self._memory[start : start + wanted].view(like.dtype).view(*shape).zero_()

    def holds(self, tensor: Tensor) -> bool:
        """Say whether a tensor lies in this memory."""
        if not self.size:
            return False
        return tensor.untyped_storage().data_ptr() == self._memory.untyped_storage().data_ptr()


__all__ = ["Arena", "Zeros"]
