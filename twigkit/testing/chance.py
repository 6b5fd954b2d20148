"""Do drawn answers have the target's own distribution? Exact enumeration against many draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from twigkit.generation.token_selection import TokenSelection
from twigkit.interfaces.tiny_models import TinyRow
from twigkit.speculative.sampling import Sampling, process_logits
from twigkit.testing.lab import Lab
from twigkit.twig.module import Twig

DRAWN = TokenSelection.drawing(Sampling(temperature=0.4, top_k=3))
"""How the checks draw: three tokens are possible at every place."""

LENGTH = 3
DRAWS = 2000
LEVEL = 1e-4
"""A sound drafter deviates more with this probability; the draws are the same every time."""


def exact(lab: Lab, row: TinyRow) -> dict[tuple[int, ...], float]:
    """Return the probability of every answer of :data:`LENGTH` tokens, by the model's own forward.

    Args:
        lab: The tiny model.
        row: What is asked.
    """
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        longer = {}
        for text, chance in chances.items():
            scores = process_logits(lab.own_logits(row, list(text))[-1], DRAWN.sampling)
            following = scores.double().softmax(-1)
            for token in following.nonzero()[:, 0].tolist():
                longer[(*text, token)] = chance * float(following[token])
        chances = longer
    return chances


def deviation(counted: dict[tuple[int, ...], int], chances: dict[tuple[int, ...], float]) -> float:
    """Return the probability of a deviation at least as large as the one found (chi-square).

    Args:
        counted: How often each answer came.
        chances: How probable each is. Rare ones are counted together.

    Returns:
        0 if an answer came that cannot come.
    """
    if set(counted) - set(chances):
        return 0.0
    draws = sum(counted.values())
    cells = [(counted.get(text, 0), chance * draws) for text, chance in chances.items()]
    rare = [cell for cell in cells if cell[1] < 5]
    cells = [cell for cell in cells if cell[1] >= 5]
    if rare:
        cells.append((sum(c for c, _ in rare), sum(e for _, e in rare)))
    statistic = torch.tensor(sum((c - e) ** 2 / e for c, e in cells), dtype=torch.float64)
    freedom = torch.tensor(len(cells) - 1.0, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


class Unsure:
    """A drafter, or a draft model, whose heads know the best tokens and are half as sure."""

    def __init__(self, inner: Any) -> None:
        """Wrap a drafter or a draft model."""
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        """Do the rest as what is wrapped does."""
        return getattr(self.inner, name)

    def draft(self, draft_model: Any, candidates: Any, room: int) -> Any:
        """Draft with an unsure draft model."""
        return self.inner.draft(Unsure(draft_model), candidates, room)

    def logits(self, hidden: Tensor, head: str = "lm") -> Tensor:
        """Say what the head says, half as loud."""
        return 0.5 * self.inner.logits(hidden, head)  # type: ignore[no-any-return]


def check_distribution(lab: Lab, drafter: Any, twig: Twig | None) -> None:
    """Fail if answers that were drawn with a drafter are not distributed as the target's own.

    Args:
        lab: The tiny model.
        drafter: The drafter.
        twig: A twig with the heads that it needs; what it says should be what the target says.
    """
    row = TinyRow((), 1, 3)
    for draws in (2, DRAWS):
        trace = lab.run(
            [row] * draws,
            Unsure(drafter),
            twig=twig,
            new_tokens=LENGTH,
            selection=DRAWN,
            seeds=range(draws),
            ends=frozenset(),
        )
        if not any(step.table.sampled for step in trace.drafter.steps):
            pytest.skip("drew no draft; drafts that are chosen cannot change what a seed gives")
    counted: dict[tuple[int, ...], int] = {}
    for answer in map(tuple, trace.tokens):
        counted[answer] = counted.get(answer, 0) + 1
    chance = deviation(counted, exact(lab, row))
    if chance < LEVEL:
        pytest.fail(
            f"{DRAWS} drawn answers deviate from the target's own distribution; one as far off "
            f"comes with a probability of {chance:.2g} only. Draw with candidates.sample() from "
            "the distribution that it is given, and drop no draft for what it turned out to be"
        )
