"""Measures how often a twig's heads are right, and finds the static tree that suits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.utils import scatter

from twigkit.errors import CapabilityError, InputError
from twigkit.interfaces.drafter import DraftModel
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.token_tree import TokenTree

if TYPE_CHECKING:
    from twigkit.model import TwigModel


MISS = -1
"""Stands for a rank where none of the guesses was right."""


class RankMeter:
    """A drafter that proposes nothing and records what the heads would have proposed.

    Attributes:
        label: What messages call it.
        guesses: By step: the most likely tokens of every depth, ``[batch, depths, ranks]``.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch"})
    label: ClassVar[str] = "medusa-tree"
    linear: bool = True
    capacity: int = 1
    size: int = 1
    height: int = 0

    def __init__(self, head: str = "lm", ahead: str | None = "medusa", ranks: int = 10) -> None:
        """Say what to ask.

        Args:
            head: Name of the twig head that drafts the next token.
            ahead: Name of the one that drafts those after it; ``None`` for none.
            ranks: Guesses per depth.
        """
        self.heads: tuple[str, ...] = (head,) if ahead is None else (head, ahead)
        self._ranks = ranks
        self.guesses: list[Tensor] = []

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> Candidates:
        """Ask the heads about the root, and return it alone."""
        hidden = draft_model.expand(candidates, range(1))
        best = [self._best(draft_model.logits(hidden, self.heads[0]))]
        if len(self.heads) > 1:
            ahead = draft_model.logits(hidden, self.heads[1])[:, 0]
            best += [self._best(logits[:, None]) for logits in ahead.unbind(1)]
        self.guesses.append(torch.stack(best, 1).cpu())
        return candidates

    def _best(self, logits: Tensor) -> Tensor:
        """The most likely tokens, ``[batch, 1, vocabulary]`` to ``[batch, ranks]``."""
        return logits[:, 0].float().topk(min(self._ranks, logits.shape[-1])).indices


def guessed_paths(
    model: TwigModel,
    prompts: Iterable[Mapping[str, Any]],
    *,
    head: str = "lm",
    ahead: str | None = "medusa",
    ranks: int = 10,
    **options: Any,
) -> Batch:
    """Write down, at every place of some answers, at which ranks the heads guessed what follows.

    Args:
        model: A model with a twig.
        prompts: What the processor returns, one mapping per call of ``generate``.
        head: Name of the twig head that drafts the next token.
        ahead: Name of the one that drafts those after it; ``None`` for none.
        ranks: Guesses per depth.
        **options: More arguments of ``generate``, such as ``max_new_tokens`` and ``budget``.

    Returns:
        One token tree per answer, as :meth:`TokenTree.from_paths` makes it: a path per place of the
        answer, which holds for every depth the rank of the guess that the target's token was, or
        :data:`MISS`.

    Raises:
        CapabilityError: If the twig lacks a head, or one cannot do what is asked of it.
        InputError: If the answers are too short to tell.
    """
    held: dict[str | None, Any] = dict(model.twig.heads.items()) if model.twig else {}
    for name, able in ((head, "next-token"), (ahead, "several-tokens")):
        found = held.get(name)  # one that is missing is told by generate
        if found is not None and able not in found.capabilities:
            raise CapabilityError(
                f"the head {name!r} is a {type(found).__name__}, which does not declare {able!r}; "
                "name one that does"
            )
    trees, deepest = [], 1
    for inputs in prompts:
        meter = RankMeter(head, ahead, ranks)
        output: Any = model.generate(**inputs, drafter=meter, **options)
        width = inputs["input_ids"].shape[1]
        for row, count in enumerate(output.stats.new_tokens):
            answer = output[row, width : width + count].cpu()
            guesses = [step[row] for step in meter.guesses[: count - 1]]
            paths = [_path(guess, answer[place:]) for place, guess in enumerate(guesses, 1)]
            trees.append(TokenTree.from_paths(MISS, paths))
        deepest = max(deepest, *(step.shape[1] for step in meter.guesses), 1)
    if not trees or max(tree.height for tree in trees) < deepest:
        raise InputError(
            "the answers are too short to see how far ahead the heads are right; take more "
            "prompts, or ask for longer answers"
        )
    return Batch.from_data_list(trees)


def _path(guesses: Tensor, follows: Tensor) -> list[int]:
    """Rank of each token that follows, ``[tokens]``, among the guesses, ``[depths, ranks]``."""
    depths = min(len(guesses), len(follows))
    right = guesses[:depths] == follows[:depths, None]
    return [line.index(True) if True in line else MISS for line in right.tolist()]


def accuracies(guessed: Batch, ranks: int) -> list[list[float]]:
    """Work out how often each guess is the token that the target chooses.

    Args:
        guessed: What :func:`guessed_paths` returned.
        ranks: Guesses per depth.

    Returns:
        By depth below the root, then by rank: the share of places where the guess was right.
    """
    below = guessed.depth > 0
    rank = torch.where(guessed.token < 0, ranks, guessed.token)  # misses in a column of their own
    place = (guessed.depth - 1) * (ranks + 1) + rank
    height = int(guessed.depth.max())
    visits = scatter(
        guessed.visits[below].double(), place[below], dim_size=height * (ranks + 1), reduce="sum"
    ).view(height, ranks + 1)
    shares: list[list[float]] = (visits / visits.sum(1, keepdim=True))[:, :-1].tolist()
    return shares


__all__ = ["MISS", "RankMeter", "accuracies", "guessed_paths"]
