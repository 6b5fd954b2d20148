"""A controller that measures, as it goes, whether drafting pays, and which tree pays most."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from twigkit import hookimpl
from twigkit.interfaces.drafter import Drafter, DraftModel
from twigkit.plugins.discovery import default_registry
from twigkit.plugins.hookspecs import Register
from twigkit.specs.base import problem
from twigkit.specs.run import DrafterField, DrafterSpec
from twigkit.speculative.candidates import Candidates
from twigkit.speculative.draft_tree import DraftTree

WARM = 3  # steps of a kind before its measurements count
SEEN = 6  # steps of every tree before all of them can be given up
FOLLOW = 0.3  # how much of a step's slowness is taken for the machine's


def _choices() -> tuple[dict[str, Any], ...]:
    """The paper's path, a small tree and the paper's tree."""
    small = {"kind": "tree-ssd", "children": 4, "expanded": 4, "levels": 4, "nodes": 16}
    return {"kind": "ssd"}, small, {"kind": "tree-ssd"}


class AutoDrafterSpec(DrafterSpec):
    """Settings of the controller."""

    kind: Literal["auto"] = "auto"
    drafters: tuple[DrafterField, ...] = Field(
        default_factory=_choices,
        validate_default=True,
        min_length=1,
        description="Drafters to choose from, besides plain decoding; the twig needs the heads of "
        "all of them.",
    )
    risk: float = Field(
        0.01,
        gt=0.0,
        le=1.0,
        description="Share of the time that may be lost to trying what turns out slower.",
    )

    @model_validator(mode="after")
    def _no_controllers(self) -> AutoDrafterSpec:
        """Refuse drafters that choose for themselves."""
        for spec in self.drafters:
            if isinstance(spec, AutoDrafterSpec):
                raise problem("'auto' cannot choose itself; name the drafters to choose from")
        return self


@dataclass
class Record:
    """What was measured of one way to make a step.

    Attributes:
        steps: How often it was taken.
        seconds: What a step takes at the machine's usual pace, a running mean.
        tokens: What a step gains in a row, a running mean.
        last: Number of the step, over all, when it was last taken.
    """

    steps: int = 0
    seconds: float = 0.0
    tokens: float = 1.0
    last: int = 0

    def add(self, seconds: float, tokens: float, now: int) -> None:
        """Take a step into account; a spell of other work on the machine counts four times."""
        self.steps += 1
        self.last = now
        if self.steps > WARM:
            seconds = min(seconds, 4 * self.seconds)
        self.seconds += max(1 / self.steps, 0.02) * (seconds - self.seconds)
        self.tokens += max(1 / self.steps, 0.05) * (tokens - self.tokens)

    @property
    def cost(self) -> float:
        """Seconds per token."""
        return self.seconds / max(self.tokens, 1e-9)


class AutoDrafter:
    """Takes the way with the fewest seconds per token, and tries the others within a limit.

    The time of a step, from one draft to the next, is all of it: drafting, verification,
    acceptance and what lies between. While other work slows the machine down, all ways take longer;
    that is the machine's pace, which is told apart from what a way takes, so that a way is not
    given up for the hour at which it was measured. What trying has lost is kept below a share of
    all time spent, and in each answer below three times that share or four plain steps.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})

    def __init__(self, spec: AutoDrafterSpec) -> None:
        """Make the drafters to choose from."""
        self.spec = spec
        registry = default_registry()
        self._arms: list[Drafter] = [registry.get("drafter", d.kind).cls(d) for d in spec.drafters]
        self.capacity = max(arm.capacity for arm in self._arms)
        self.size = max(arm.size for arm in self._arms)
        self.height = max(arm.height for arm in self._arms)
        self.memory: dict[str, Any] = {}
        self._heads: tuple[str, ...] | None = None
        self._taken: int | None = None
        self._began = self._spent = self._lost = 0.0

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads of all drafters; none in an answer that will not draft.

        Where no tree has ever paid, most answers do without the twig altogether.
        """
        if self._heads is None:
            self._answers = self.memory["answers"] = self.memory.get("answers", 0) + 1
            given_up = (
                all(record.steps >= SEEN for record in self._records[1:])
                and self._best() == 0
                and self._answers % 16
            )
            names = [name for arm in self._arms for name in arm.heads]
            self._heads = () if given_up else tuple(dict.fromkeys(names))
        return self._heads

    @property
    def linear(self) -> bool:
        """Whether what was chosen for this step proposes paths only; plain decoding does."""
        if self._taken is None:
            return False
        return self._taken == 0 or self._arms[self._taken - 1].linear

    @property
    def _records(self) -> list[Record]:
        """What was measured: plain decoding, then the drafters."""
        fresh = self.memory.setdefault("records", [])
        if not fresh:
            fresh.extend(Record() for _ in range(len(self._arms) + 1))
        return fresh  # type: ignore[no-any-return]

    @property
    def _pace(self) -> float:
        """How long steps take now, in what they usually take."""
        return float(self.memory.get("pace", 1.0))

    def decide(self, gained: Sequence[int], room: int) -> None:
        """Take the last step into account and choose the way of this one."""
        now = time.perf_counter()
        gains = [tokens for tokens in gained if tokens]
        if self._taken is not None and gains:
            self._learn(self._taken, now - self._began, sum(gains) / len(gains))
        self._began = now
        self._taken = self._choose() if self.heads and room > 0 else 0

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> DraftTree:
        """Let the chosen drafter draft; plain decoding is the root alone."""
        if not self._taken:
            return candidates
        return self._arms[self._taken - 1].draft(draft_model, candidates, room)

    def _best(self) -> int:
        """The way with the fewest seconds per token among those that were measured."""
        known = [n for n, record in enumerate(self._records) if record.steps >= WARM]
        return min(known, key=lambda n: self._records[n].cost, default=0)

    def _learn(self, taken: int, seconds: float, tokens: float) -> None:
        """Take a step into account, and what it lost against the best way."""
        count = self.memory["steps"] = self.memory.get("steps", 0) + 1
        pace, record = self._pace, self._records[taken]
        if record.steps >= WARM:
            slow = min(max(seconds / record.seconds, pace / 4), 4 * pace)
            self.memory["pace"] = pace + FOLLOW * (slow - pace)
        record.add(seconds / pace, tokens, count)
        self._spent += seconds
        self.memory["spent"] = self.memory.get("spent", 0.0) + seconds
        best = self._best()
        if taken != best and self._records[best].steps >= WARM:
            loss = max(0.0, seconds - tokens * self._records[best].cost * pace)
            self._lost += loss
            self.memory["lost"] = self.memory.get("lost", 0.0) + loss

    def _choose(self) -> int:
        """The best way known, or another one that is due and within the limit."""
        records = self._records
        if records[0].steps < WARM:
            return 0
        best, count = self._best(), self.memory.get("steps", 0)
        step = records[0].seconds * self._pace
        room = min(
            8 * step
            + self.spec.risk * self.memory.get("spent", 0.0)
            - self.memory.get("lost", 0.0),
            max(4 * step, 3 * self.spec.risk * self._spent) - self._lost,
        )
        due = []
        for number, record in enumerate(records):
            if number == best:
                continue
            # Plain decoding is cheap to try, and what all others are held against.
            wait = 0 if record.steps < WARM else 2 ** min(record.steps, 9 if number else 6)
            loss = 2 * step
            if record.steps:
                loss = max(0.0, record.seconds - record.tokens * records[best].cost) * self._pace
            if count - record.last >= wait and loss <= room:
                due.append((record.steps, record.last, number))
        return min(due)[2] if due else best


@hookimpl
def register_drafters(register: Register) -> None:
    """Register the controller."""
    register("auto", AutoDrafter, AutoDrafterSpec)
