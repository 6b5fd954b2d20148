"""What drafters of paths share: their shape, and paths that are known on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from twigkit.speculative.candidates import Candidates


class PathShape:
    """Shape of a drafter that proposes one path per row, at most ``spec.length`` drafts long.

    Attributes:
        spec: The drafter's settings.
    """

    linear: ClassVar[bool] = True
    spec: Any

    @property
    def capacity(self) -> int:
        """Nodes of a full path, root included."""
        return self.height + 1

    @property
    def size(self) -> int:
        """Nodes of a full path, root included."""
        return self.height + 1

    @property
    def height(self) -> int:
        """Drafts of a full path."""
        return int(self.spec.length)


def add_paths(
    candidates: Candidates,
    drafts: Sequence[Sequence[int]],
    length: int,
    *,
    fixed_shapes: bool = True,
) -> range:
    """Append one path per row to candidates that hold the root alone.

    Args:
        candidates: Made by :meth:`Candidates.path`.
        drafts: Tokens of each row's path, ``length`` at most; they need not be equally many.
        length: Nodes to append in every row. What a row has no token for is dead.
        fixed_shapes: Whether every step must append equally many nodes, as
            ``draft_model.fixed_shapes`` says; otherwise no more than the longest path has.

    Returns:
        The ids of the new nodes; there may be none.

    Example:
        >>> candidates = Candidates.path(torch.tensor([7, 8]), capacity=4)
        >>> add_paths(candidates, [[5, 3], [9]], length=2)
        range(1, 3)
        >>> candidates.tokens[:, :3].tolist(), candidates.alive[:, :3].tolist()
        ([[7, 5, 3], [8, 9, 0]], [[True, True, True], [True, True, False]])
    """
    if not fixed_shapes:
        length = min(length, max(map(len, drafts)))
    if length < 1:
        return range(candidates.size, candidates.size)
    device = candidates.tokens.device
    tokens = [[*path[:length], *[0] * (length - len(path))] for path in drafts]
    alive = [[place < len(path) for place in range(length)] for path in drafts]
    known = torch.tensor(tokens, dtype=torch.long, device=device).view(len(drafts), length)
    real = torch.tensor(alive, dtype=torch.bool, device=device).view(len(drafts), length)
    return candidates.add(known, None, torch.zeros_like(known, dtype=torch.float32), real)
