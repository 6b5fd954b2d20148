"""A bandit that measures, as it goes, whether drafting pays, and which drafter pays most.

Its arms are plain decoding and the drafters of its spec; pulling one is making a step with it. What
an arm costs is its time per token. The regret of a step is the time that the best arm known would
have saved. Exploration, which is pulling any other arm, ends where its regret would exceed a
budget.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from twigkit.interfaces import (
    Candidates,
    Drafter,
    DrafterField,
    DrafterSpec,
    DraftModel,
    DraftTree,
    Register,
    default_registry,
    hookimpl,
    problem,
)


def _choices() -> tuple[dict[str, Any], ...]:
    """A path, a small tree, and the paper's tree with twigkit's early end.

    The path may be three times as long as the paper's: it ends where the twig is unsure, so that
    length costs nothing where answers are hard to foresee.
    """
    path = {"kind": "ssd", "length": 16}
    small = {"kind": "tree-ssd", "children": 4, "expanded": 4, "levels": 4, "nodes": 16}
    return path, small, {"kind": "tree-ssd"}


class AutoDrafterSpec(DrafterSpec):
    """Settings of the bandit."""

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
        description="Exploration budget: share of the time that may be lost to trying what turns "
        "out slower.",
    )

    @model_validator(mode="after")
    def _no_bandits(self) -> AutoDrafterSpec:
        """Refuse drafters that choose for themselves."""
        for spec in self.drafters:
            if isinstance(spec, AutoDrafterSpec):
                raise problem("'auto' cannot choose itself; name the drafters to choose from")
        return self


@dataclass(frozen=True)
class Exploration:
    """How the bandit explores; times are in steps of plain decoding at the machine's present pace.

    Attributes:
        warm_steps: Pulls of an arm before its measurements count.
        trial_steps: Pulls of every drafter before all of them can be given up.
        retry_answers: Once all are given up, one answer in so many still runs the twig.
        first_budget: Regret that may be spent before any time has passed.
        answer_budget: Regret that any one answer may cost, however short.
        answer_share: Regret that one answer may cost, in multiples of ``risk`` times its time.
        plain_wait: After its n-th pull an arm rests for ``2 ** n`` steps while another one is
            better; the largest n for plain decoding, which is cheap to try, and what all others
            are held against.
        drafter_wait: The largest n for drafters.
        untried_regret: Regret that a first pull is expected to cost.
        seconds_rate: Least weight of a new measurement in an arm's mean time.
        tokens_rate: The same in its mean gain.
        pace_rate: How much of a step's slowness is put down to other work on the machine.
        outlier: A time counts for no more than this many times the mean.
    """

    warm_steps: int = 3
    trial_steps: int = 6
    retry_answers: int = 16
    first_budget: float = 8.0
    answer_budget: float = 4.0
    answer_share: float = 3.0
    plain_wait: int = 6
    drafter_wait: int = 9
    untried_regret: float = 2.0
    seconds_rate: float = 0.02
    tokens_rate: float = 0.05
    pace_rate: float = 0.3
    outlier: float = 4.0


@dataclass
class Arm:
    """What was measured of one way to make a step.

    Attributes:
        pulls: How often it was taken.
        seconds: What a step takes at the machine's usual pace, a running mean.
        tokens: What a step gains in a row, a running mean.
        last: Number of the step, over all arms, when it was last taken.
    """

    pulls: int = 0
    seconds: float = 0.0
    tokens: float = 1.0
    last: int = 0

    @property
    def cost(self) -> float:
        """Seconds per token."""
        return self.seconds / max(self.tokens, 1e-9)


@dataclass
class Bandit:
    """Pulls the arm with the fewest seconds per token, and explores the others within a budget.

    While other work slows the machine down, all arms take longer. That is the machine's pace, which
    is told apart from what an arm takes, so that none is given up for the hour at which it was
    measured.

    Attributes:
        arms: Plain decoding, then the drafters.
        risk: Share of all time that may be lost to exploration.
        exploration: How to explore.
        pulls: Steps over all arms.
        answers: Answers that were begun.
        pace: How long steps take now, in what they usually take.
        seconds: Time of all steps.
        regret: What the best arm known would have saved of it.
        answer_seconds: Time of the steps of this answer.
        answer_regret: Regret of the steps of this answer.
    """

    arms: list[Arm]
    risk: float
    exploration: Exploration = field(default_factory=Exploration)
    pulls: int = 0
    answers: int = 0
    pace: float = 1.0
    seconds: float = 0.0
    regret: float = 0.0
    answer_seconds: float = 0.0
    answer_regret: float = 0.0

    def begin_answer(self) -> bool:
        """Start another answer.

        Returns:
            Whether it may draft at all. Where no drafter has ever paid, most answers do without,
            which saves running the twig over their prompts.
        """
        self.answers += 1
        self.answer_seconds = self.answer_regret = 0.0
        known = all(arm.pulls >= self.exploration.trial_steps for arm in self.arms[1:])
        retry = self.answers % self.exploration.retry_answers == 0
        return not known or self.best() != 0 or retry

    def best(self) -> int:
        """Return the number of the arm with the fewest seconds per token among those measured."""
        known = [n for n in range(len(self.arms)) if self._warm(n)]
        return min(known, key=lambda n: self.arms[n].cost, default=0)

    def choose(self) -> int:
        """Return the number of the arm to pull: the best one, or one that is worth exploring."""
        if not self._warm(0):
            return 0
        best, budget = self.best(), self._budget()
        due = [
            (arm.pulls, arm.last, number)
            for number, arm in enumerate(self.arms)
            if number != best
            and self.pulls - arm.last >= self._wait(number)
            and self._expected_regret(number, best) <= budget
        ]
        return min(due)[2] if due else best

    def observe(self, number: int, seconds: float, tokens: float) -> None:
        """Take a step into account, and its regret against the best arm.

        Args:
            number: The arm that was pulled.
            seconds: What the step took.
            tokens: What it gained, in the mean over rows.
        """
        rates, arm, pace = self.exploration, self.arms[number], self.pace
        if self._warm(number):
            slow = min(max(seconds / arm.seconds, pace / rates.outlier), rates.outlier * pace)
            self.pace = pace + rates.pace_rate * (slow - pace)
        self.pulls += 1
        arm.pulls += 1
        arm.last = self.pulls
        usual = seconds / pace
        if arm.pulls > rates.warm_steps:
            usual = min(usual, rates.outlier * arm.seconds)
        arm.seconds += max(1 / arm.pulls, rates.seconds_rate) * (usual - arm.seconds)
        arm.tokens += max(1 / arm.pulls, rates.tokens_rate) * (tokens - arm.tokens)
        self.seconds += seconds
        self.answer_seconds += seconds
        best = self.best()
        if number != best and self._warm(best):
            regret = max(0.0, seconds - tokens * self.arms[best].cost * pace)
            self.regret += regret
            self.answer_regret += regret

    def _warm(self, number: int) -> bool:
        """Whether an arm's measurements count."""
        return self.arms[number].pulls >= self.exploration.warm_steps

    def _budget(self) -> float:
        """Seconds of regret that may still be spent: over all answers, and in this one."""
        limits, step = self.exploration, self.arms[0].seconds * self.pace
        overall = limits.first_budget * step + self.risk * self.seconds
        answer = limits.answer_share * self.risk * self.answer_seconds
        return min(
            overall - self.regret, max(limits.answer_budget * step, answer) - self.answer_regret
        )

    def _wait(self, number: int) -> int:
        """Steps for which an arm rests after it was pulled."""
        if not self._warm(number):
            return 0
        limits = self.exploration
        most = limits.drafter_wait if number else limits.plain_wait
        return int(2 ** min(self.arms[number].pulls, most))

    def _expected_regret(self, number: int, best: int) -> float:
        """Seconds that pulling an arm is expected to lose."""
        arm = self.arms[number]
        if not arm.pulls:
            return self.exploration.untried_regret * self.arms[0].seconds * self.pace
        return max(0.0, arm.seconds - arm.tokens * self.arms[best].cost) * self.pace


class AutoDrafter:
    """Lets a bandit choose, before each step, the drafter that makes it, or plain decoding.

    The time of a step, from one draft to the next, is all of it: drafting, verification,
    acceptance and what lies between.

    Attributes:
        choices: Plain decoding, then the drafters of the spec.
        memory: Holds the bandit, so that it goes on learning from answer to answer.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"batch", "tree"})
    heads: tuple[str, ...]
    capacity: int
    size: int
    height: int
    choices: tuple[Drafter, ...]

    def __init__(self, spec: AutoDrafterSpec) -> None:
        """Make the drafters to choose from."""
        self.spec = spec
        registry = default_registry()
        plain = registry.get("drafter", "plain")
        assert plain.spec is not None
        made: list[Drafter] = [registry.get("drafter", d.kind).make(d) for d in spec.drafters]
        self.choices = (plain.make(plain.spec()), *made)
        self.capacity = max(drafter.capacity for drafter in made)
        self.size = max(drafter.size for drafter in made)
        self.height = max(drafter.height for drafter in made)
        self._all_heads = tuple(dict.fromkeys(name for drafter in made for name in drafter.heads))
        self.heads = self._all_heads
        self.memory: dict[str, Any] = {}
        self._pulled: int | None = None
        self._began = 0.0

    @property
    def bandit(self) -> Bandit:
        """The bandit in the memory; a new one if there is none."""
        if "bandit" not in self.memory:
            self.memory["bandit"] = Bandit([Arm() for _ in self.choices], self.spec.risk)
        bandit: Bandit = self.memory["bandit"]
        return bandit

    @property
    def linear(self) -> bool:
        """Whether what was chosen for this step proposes paths only; plain decoding does."""
        return self._pulled is not None and self.choices[self._pulled].linear

    def begin_answer(self) -> None:
        """Need no heads in an answer that will not draft."""
        self.heads = self._all_heads if self.bandit.begin_answer() else ()

    def decide(self, gained: Sequence[int], room: int) -> int:
        """Tell the bandit about the last step and choose the drafter of this one."""
        now = time.perf_counter()
        gains = [tokens for tokens in gained if tokens]
        if self._pulled is not None and gains:
            self.bandit.observe(self._pulled, now - self._began, sum(gains) / len(gains))
        self._began = now
        self._pulled = self.bandit.choose() if self.heads and room > 0 else 0
        return self._pulled

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> DraftTree:
        """Let the chosen drafter draft; plain decoding is the root alone."""
        return self.choices[self._pulled or 0].draft(draft_model, candidates, room)


@hookimpl
def register_drafters(register: Register[Drafter]) -> None:
    """Register the bandit."""
    register("auto", AutoDrafter, AutoDrafterSpec)
