"""What drafters of paths share: their shape, and paths that are known on the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

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


class TextDrafting(PathShape, ABC):
    """Base class of drafters that know nothing but the texts; makes their ``draft``.

    What they propose is known on the host before the step begins. So the core may copy it to where
    a captured step reads it.
    """

    @abstractmethod
    def propose(self, texts: Sequence[list[int]], length: int) -> list[list[int]]:
        """Propose a path for each row.

        Args:
            texts: Prompt and answer so far of each row, as ``DraftModel.texts``: the same lists in
                every step, which grow.
            length: Most tokens of a path.

        Returns:
            One path per text, which may be shorter or empty.
        """

    def draft(self, draft_model: Any, candidates: Candidates, room: int) -> Candidates:
        """Add what is proposed for the texts."""
        length = min(self.height, room)
        drafts = self.propose(draft_model.texts, length)
        add_paths(candidates, drafts, length, fixed_shapes=draft_model.fixed_shapes)
        return candidates


def from_texts(drafter: object) -> bool:
    """Say whether a drafter proposes from texts, and does nothing besides."""
    return isinstance(drafter, TextDrafting) and type(drafter).draft is TextDrafting.draft


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
    known, real = path_tensors(drafts, length, candidates.tokens.device)
    return candidates.add(known, None, torch.zeros_like(known, dtype=torch.float32), real)


def path_tensors(
    drafts: Sequence[Sequence[int]], length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Lay paths side by side.

    Args:
        drafts: Tokens of each row's path.
        length: Tokens per row; a longer path is cut.
        device: Where to.

    Returns:
        Tokens, 0 where a path has ended, and which of them a path has, both ``[rows, length]``.
    """
    tokens = [[*path[:length], *[0] * (length - len(path))] for path in drafts]
    alive = [[place < len(path) for place in range(length)] for path in drafts]
    known = torch.tensor(tokens, dtype=torch.long, device=device).view(len(drafts), length)
    real = torch.tensor(alive, dtype=torch.bool, device=device).view(len(drafts), length)
    return known, real


__all__ = ["PathShape", "TextDrafting", "add_paths", "from_texts", "path_tensors"]
