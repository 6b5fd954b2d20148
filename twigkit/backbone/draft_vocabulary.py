"""A part of the vocabulary that a draft head scores: its rows are all that a step reads.

Most drafted tokens are among the most frequent few thousand, and the target decides anyway; so a
head of fewer rows drafts nearly as well and costs a fraction. Tokens outside are never drafted.

Source: FR-Spec, arXiv 2502.14856, for the choice by frequency.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from twigkit.errors import CheckpointError, SpecError


class DraftVocabulary(nn.Module):
    """Puts the logits of some tokens where the whole vocabulary has them.

    Attributes:
        vocabulary: Rows of the base's head.
        ids: Token of each of the head's rows, ``[rows]`` long; a part of the checkpoint.
    """

    ids: Tensor

    def __init__(self, ids: Tensor, vocabulary: int) -> None:
        """Take the tokens.

        Args:
            ids: One token id per row of the head, each once.
            vocabulary: Rows of the base's head.

        Raises:
            SpecError: If there are more ids than tokens, or one is none of them or named twice.
        """
        super().__init__()
        self.vocabulary = vocabulary
        self.register_buffer("ids", ids.detach().long().clone())
        if problem := self._problem():
            raise SpecError(problem)
        hook: Any = self.register_load_state_dict_post_hook
        hook(DraftVocabulary._check_loaded)

    @classmethod
    def first(cls, rows: int, vocabulary: int, device: torch.device) -> DraftVocabulary:
        """Take the first tokens, which a head with fewer rows than the base's scores.

        Raises:
            SpecError: If there are not so many.
        """
        return cls(torch.arange(rows, device=device), vocabulary)

    def forward(self, logits: Tensor) -> Tensor:
        """Spread logits over the vocabulary, minus infinity for all other tokens.

        Args:
            logits: Of the head's rows, ``[..., rows]``.

        Returns:
            ``[..., vocabulary]``.
        """
        whole = logits.new_full((*logits.shape[:-1], self.vocabulary), float("-inf"))
        return whole.index_copy(-1, self.ids, logits)

    def places(self, tokens: Tensor, missing: int) -> Tensor:
        """Return which of the head's rows each token has.

        Args:
            tokens: Token ids of any shape; what is below 0 is no token.
            missing: Stands where the head has no row of a token.

        Returns:
            As ``tokens``, on the same device.

        Example:
            >>> DraftVocabulary(torch.tensor([3, 5]), 10).places(torch.tensor([5, 4, -100]), -1)
            tensor([ 1, -1, -1])
        """
        place = torch.full((self.vocabulary,), missing, device=tokens.device)
        place[self.ids.to(place.device)] = torch.arange(len(self.ids), device=place.device)
        return place[tokens.clamp(min=0)].masked_fill(tokens < 0, missing)

    def rows_of(self, ids: Tensor) -> Tensor:
        """Return which of the head's rows are of some tokens, ``[tokens]`` long.

        Raises:
            SpecError: If the head has no row of one of them.
        """
        rows = self.places(ids.to(self.ids.device), missing=-1)
        if not rows.is_meta and bool((rows < 0).any()):
            raise SpecError(
                f"the head scores {len(self.ids)} of {self.vocabulary} tokens, which lack some of "
                "those asked for; start from a head with rows of all of them, or name others"
            )
        return rows

    def _problem(self) -> str:
        """Say what is wrong with the ids, empty if nothing is."""
        if self.ids.is_meta:
            return ""
        if not 1 <= self.ids.numel() <= self.vocabulary:
            return (
                f"a draft vocabulary of {self.ids.numel()} tokens does not fit the base's of "
                f"{self.vocabulary}; ask for 1 to {self.vocabulary}"
            )
        low, high = int(self.ids.min()), int(self.ids.max())
        if low < 0 or high >= self.vocabulary or len(set(self.ids.tolist())) != self.ids.numel():
            return (
                f"a draft vocabulary names tokens from {low} to {high}, perhaps twice; the base's "
                f"are 0 to {self.vocabulary - 1}, each once"
            )
        return ""

    @staticmethod
    def _check_loaded(module: Any, keys: Any) -> None:
        if problem := module._problem():
            raise CheckpointError(f"{problem}; write the twig again")


def cut_rows(linear: nn.Linear, ids: Tensor) -> nn.Linear:
    """Return a linear map with some of another's rows, in the order given, trainable as that was.

    Args:
        linear: The map to the whole vocabulary.
        ids: Rows to take, ``[rows]`` long.
    """
    picked = ids.to(linear.weight.device)
    with torch.no_grad():
        cut = nn.Linear(
            linear.in_features,
            len(ids),
            bias=linear.bias is not None,
            dtype=linear.weight.dtype,
            device=linear.weight.device,
        )
        cut.weight.copy_(linear.weight[picked])
        if linear.bias is not None:
            cut.bias.copy_(linear.bias[picked])
    return cut.requires_grad_(linear.weight.requires_grad)


def frequent_tokens(texts: Any, rows: int, vocabulary: int) -> Tensor:
    """Return the most frequent tokens of some texts, in ascending order.

    Args:
        texts: Token ids of each text.
        rows: How many to return; those that no text has fill up, in order.
        vocabulary: Rows of the base's head.

    Returns:
        ``[rows]`` long.

    Example:
        >>> frequent_tokens([[5, 3, 5], [7, 3, 5]], rows=2, vocabulary=10).tolist()
        [3, 5]
    """
    counts = torch.zeros(vocabulary, dtype=torch.long)
    for text in texts:
        counts += torch.bincount(torch.tensor(text, dtype=torch.long), minlength=vocabulary)
    return counts.argsort(descending=True, stable=True)[:rows].sort().values


__all__ = ["DraftVocabulary", "cut_rows", "frequent_tokens"]
