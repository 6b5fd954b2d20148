"""Paths that a drafter knows on the host, such as what followed the same words before."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twigkit.candidates import Candidates


def add_paths(candidates: Candidates, drafts: Sequence[Sequence[int]], length: int) -> range:
    """Append one path per row to a table of paths that holds the root alone.

    Args:
        candidates: The table, with ``linear`` set.
        drafts: Tokens of each row's path, ``length`` at most; they need not be equally many.
        length: Nodes to append in every row. What a row has no token for is dead.

    Returns:
        The ids of the new nodes.
    """
    device = candidates.tokens.device
    tokens = [[*path[:length], *[0] * (length - len(path))] for path in drafts]
    alive = [[place < len(path) for place in range(length)] for path in drafts]
    known = torch.tensor(tokens, dtype=torch.long, device=device).view(len(drafts), length)
    real = torch.tensor(alive, dtype=torch.bool, device=device).view(len(drafts), length)
    return candidates.add(known, None, torch.zeros_like(known, dtype=torch.float32), real)
