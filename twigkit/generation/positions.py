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
    """

    def __init__(self, prompt: Prompt) -> None:
        """Start after a prompt."""
        self.rope, self.index = prompt.next_rope.clone(), prompt.next_index.clone()
        # transformers counts the length of a batch: that of its longest row.
        self._shorter, self._least = self.rope.amax() - self.rope, prompt.rope.amax() + 1

    @classmethod
    def at(cls, rope: Tensor, index: Tensor) -> Positions:
        """Start where some tensors say, which then move on in place.

        Only for bases whose rotary tables do not depend on the length.
        """
        positions: Positions = object.__new__(cls)
        positions.rope, positions.index = rope, index
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
        lengths = (positions + self._shorter[:, None] + 1).clamp(min=self._least)
        return stack.rope_at(hidden, positions.expand(stack.channels, -1, -1), lengths)

    def advance(self, count: Tensor) -> None:
        """Move past the tokens that a step accepted, ``[batch]``."""
        self.rope.add_(count)
        self.index.add_(count)

    def join(self, prompt: Prompt) -> None:
        """Append the rows of another prompt, between two steps.

        From then on every row is counted by itself, as if it were alone.

        Args:
            prompt: The prompt that joins, without padding.
        """
        other = Positions(prompt)
        rows = len(self.rope)
        least = [self._least.expand(rows, 1), other._least.expand(len(other.rope), 1)]
        self._least = torch.cat(least)
        self.rope = torch.cat((self.rope, other.rope))
        self.index = torch.cat((self.index, other.index))
        self._shorter = torch.zeros_like(self.rope)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, in the order given."""
        order = torch.tensor(rows, device=self.index.device)
        self.rope, self.index = self.rope[order], self.index[order]
        self._shorter = self._shorter[order]
        if self._least.ndim:
            self._least = self._least[order]


__all__ = ["Positions"]
