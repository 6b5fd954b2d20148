"""Measures how often a twig's heads are right, and finds the static tree that suits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from twigkit.errors import CapabilityError, InputError
from twigkit.interfaces.drafter import DraftModel
from twigkit.speculative.candidates import Candidates

if TYPE_CHECKING:
    from twigkit.model import TwigModel


class RankMeter:
    """A drafter that proposes nothing and writes down what the heads would have.

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
            ahead: Name of the one that drafts those behind it; ``None`` for none.
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


def measure(
    model: TwigModel,
    prompts: Iterable[Mapping[str, Any]],
    *,
    head: str = "lm",
    ahead: str | None = "medusa",
    ranks: int = 10,
    **options: Any,
) -> list[list[float]]:
    """Measure how often each guess is the token that the target chooses.

    Args:
        model: A model with a twig.
        prompts: What the processor returns, one mapping per call of ``generate``.
        head: Name of the twig head that drafts the next token.
        ahead: Name of the one that drafts those behind it; ``None`` for none.
        ranks: Guesses per depth.
        **options: More arguments of ``generate``, such as ``max_new_tokens`` and ``budget``.

    Returns:
        By depth below the root, then by rank: the share of places where the guess was right.

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
    hits: Any = 0
    asked: Any = 0
    for inputs in prompts:
        meter = RankMeter(head, ahead, ranks)
        output: Any = model.generate(**inputs, drafter=meter, **options)
        width = inputs["input_ids"].shape[1]
        for row, count in enumerate(output.stats.new_tokens):
            answer = output[row, width : width + count].cpu()
            for place in range(count - 1):
                guesses = meter.guesses[place][row]
                after = answer[place + 1 : place + 1 + guesses.shape[0]]
                right = (guesses[: len(after)] == after[:, None]).double()
                missing = guesses.shape[0] - len(after)
                hits = hits + _pad(right, missing)
                asked = asked + _pad(right[:, :1] * 0 + 1, missing)
    if isinstance(asked, int) or bool((asked == 0).any()):
        raise InputError(
            "the answers are too short to see how far ahead the heads are right; take more "
            "prompts, or ask for longer answers"
        )
    return (hits / asked).tolist()  # type: ignore[no-any-return]


def _pad(rows: Tensor, missing: int) -> Tensor:
    """Add rows of zeros at the end."""
    return torch.nn.functional.pad(rows, (0, 0, 0, missing))


__all__ = ["RankMeter", "measure"]
