"""Where the root of a step stands in every row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.backbone.prompt import Prompt
from twigkit.backbone.rotary import Rope


class Positions:
    """Positions of the root: the last accepted token, which no layer has passed yet.

    Rotary positions and sequence indices differ where images or videos share positions (M-RoPE).

    Attributes:
        rope: Rotary position of the root, ``[batch]`` long.
        index: Sequence index of the root without padding, ``[batch]`` long.
        least: Length that rotary tables are of at least, where they depend on the length: that of
            the longest prompt.
    """

    def __init__(self, prompt: Prompt) -> None:
        """Start after a prompt."""
        self.rope, self.index = prompt.next_rope.clone(), prompt.next_index.clone()
        # transformers counts the length of a batch: that of its longest row.
        self._shorter, self.least = self.rope.amax() - self.rope, prompt.rope.amax() + 1

    @classmethod
    def at(cls, rope: Tensor, index: Tensor, least: Tensor) -> Positions:
        """Start where some tensors say, which then move on in place; every row is by itself.

        Args:
            rope: Rotary position of the roots, ``[batch]`` long.
            index: Their sequence indices, ``[batch]`` long.
            least: As :attr:`least` of each row, ``[batch]`` long.
        """
        positions: Positions = object.__new__(cls)
        positions.rope, positions.index = rope, index
        positions._shorter, positions.least = torch.zeros_like(rope), least[:, None]
        return positions

    def indices(self, steps: Tensor) -> Tensor:
        """Return sequence indices of nodes.

        Args:
            steps: Tokens between the root and each node, ``[batch, nodes]`` long; negative for
                accepted tokens before the root.
        """
        return self.index[:, None] + steps

    def tables(self, stack: LayerStack, hidden: Tensor, steps: Tensor) -> Rope:
        """Compute rotary tables of nodes.

        Args:
            stack: The base.
            hidden: Any states; give device and dtype.
            steps: As for :meth:`indices`; negative ones may reach before the text, for padding.
        """
        positions = self.rope[:, None] + steps
        if stack.growing is None:
            return stack.rope(hidden, positions.expand(stack.channels, -1, -1))
        lengths = (positions + self._shorter[:, None] + 1).clamp(min=self.least)
        return stack.rope_at(hidden, positions.expand(stack.channels, -1, -1), lengths)

    def advance(self, count: Tensor) -> None:
        """Move past the tokens that a step accepted, ``[batch]``."""
        self.rope.add_(count)
        self.index.add_(count)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in the order given."""
        order = torch.tensor(rows, device=self.index.device)
        self.rope, self.index = self.rope[order], self.index[order]
        self._shorter = self._shorter[order]


__all__ = ["Positions"]
