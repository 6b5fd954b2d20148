"""Stage 2: the pruning head learns which tokens to keep from how well the pruned base answers.

An action is a set of visual tokens, drawn one after another by the head's scores. Its reward is the
mean log-probability that the base, shown these tokens alone, gives the reference answer; what
counts is how it compares with the other actions drawn for the same sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from twigkit.interfaces import (
    NEVER_DRAWN,
    Batch,
    BatchSize,
    CapabilityError,
    CountOrFraction,
    LayerStack,
    LossTerm,
    Objective,
    ObjectiveSpec,
    Prompt,
    Register,
    RowProbe,
    Scorer,
    Turn,
    Twig,
    Workload,
    answer_rewards,
    attention_divergence,
    base_precision,
    draw_log_probability,
    draw_without_replacement,
    embed_batch,
    head_name_for,
    hookimpl,
    keep_counts,
    pick_rows,
    problem,
    real_first,
    run_base,
    run_twig,
    teacher_layer,
    teacher_rows,
    text_starts,
    turns_with_visuals,
    wipe_layer,
)

EQUAL = 1e-5
"""Rewards of a group that lie closer together than this differ by rounding alone."""


LOGITS = 2 * 2**25
"""Logits that exist at a time while rewards are computed, and their log-softmax."""


class ReinforcementSpec(ObjectiveSpec):
    """Stage 2: the pruning head learns which visual tokens to keep from the pruned base's answers.

    Source: TwigVLM++, arXiv 2503.14075 v3.
    """

    kind: Literal["reinforcement"] = Field("reinforcement", description="Name of the objective.")
    group: int = Field(32, ge=2, le=4096, description="Actions drawn per sample.")
    budgets: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(
        tuple(count / 576 for count in (64, 85, 107, 128, 149, 171, 192)),
        min_length=1,
        description="Budgets that are trained, as fractions of the visual tokens, ascending.",
    )
    beta: float = Field(
        8.0,
        ge=0.0,
        description="How strongly training ends on the smallest budget: budget i is drawn with "
        "probability proportional to exp(-beta * progress^2 * i).",
    )
    anchor: float = Field(
        1.0,
        ge=0.0,
        description="Weight of the divergence from the base's attention that stage 1 learnt from, "
        "at the smallest budget; it grows with the budget drawn to four times that at the largest, "
        "as in the published code. 0 leaves it out.",
    )
    teacher_layer: CountOrFraction = Field(
        19 / 32, description="Base layer of the anchor's attention, as in stage 1."
    )
    teacher_rows: Literal["query", "text", "answer"] = Field(
        "query", description="Rows of the anchor's attention, as in stage 1."
    )
    teacher_softmax: Literal["visual", "all"] = Field(
        "visual", description="Keys of the anchor's attention, as in stage 1."
    )
    wipe_layer: CountOrFraction = Field(
        None,
        description="Layer after which no visual token is left, as in generation; None for "
        "three quarters of the depth.",
    )
    chunk: int | None = Field(
        None, ge=1, description="Actions that run through the base at a time; None for all."
    )

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        """Refuse budgets in another order, since the schedule counts on it."""
        if list(value) != sorted(set(value)):
            raise problem(f"got {list(value)}; list the budgets in ascending order, each once")
        return value


@dataclass(frozen=True)
class DrawnTurns:
    """What one call works on: one turn of each row that has a picture before one.

    Attributes:
        prompt: Prompts with their answers but for the last token, which predicts nothing; after
            the exit layer.
        targets: The answers, ``[tokens]`` long each.
        probe: The probe of the last twig layer, at the last prompt token.
        teacher: The base's attention for the turn, ``[batch, tokens]``; ``None`` without anchor.
    """

    prompt: Prompt
    targets: list[Tensor]
    probe: RowProbe
    teacher: Tensor | None


class Reinforcement(Objective):
    """Trains the pruning head of a twig, and nothing else.

    Attributes:
        head: The head.
        wipe: Base layers after which no visual token is left.
    """

    criterion_name: ClassVar[str] = "negative reward"

    def __init__(self, spec: ReinforcementSpec, stack: LayerStack, twig: Twig) -> None:
        """Freeze all of the twig but its pruning head.

        Args:
            spec: Settings.
            stack: The base.
            twig: The twig.

        Raises:
            CapabilityError: If the twig has no pruning head.
            BudgetError: If the base's layers cannot meet one of the budgets.
            SpecError: If the base has no such teacher layer.
        """
        super().__init__(spec, stack, twig)
        name = head_name_for(twig, "scores")
        head = None if name is None else twig.head(name)
        if head is None or not isinstance(head, Scorer):
            raise CapabilityError(
                f"the twig has no pruning head to train; it has {', '.join(twig.heads)}. "
                "Grow one and train it with the objective 'distillation' first"
            )
        twig.requires_grad_(False).eval()
        self.head = head.requires_grad_(True)
        self.wipe = wipe_layer(stack.depth, spec.wipe_layer)
        self.layer = teacher_layer(stack.depth, spec.teacher_layer)
        for budget in spec.budgets:
            self._keep([576], budget)

    def workload(self, size: BatchSize) -> Workload:
        """Count what the gates keep, and the tokens of all actions that run together."""
        width = int(self.stack.config.hidden_size)
        kept = 0
        if size.visual:  # at the largest budget
            (kept,) = self._keep([-(-size.visual // size.rows)], self.spec.budgets[-1])
        text = -(-(size.tokens - size.visual) // size.rows)
        actions = self.spec.chunk or size.rows * self.spec.group
        return Workload(
            twig_tokens=0,
            base_tokens=max(size.tokens, actions * (text + kept)),
            kept=4 * width * size.visual,
            logits=LOGITS,
        )

    def _keep(self, visual: list[int], budget: float) -> list[int]:
        """How many visual tokens each row keeps, as at inference."""
        depth, exit_layer = self.stack.depth, self.twig.exit_layer
        return keep_counts(
            visual, budget, depth=depth, exit_layer=exit_layer, wipe=self.wipe, strict=True
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count answer tokens, rows, and rows with a picture before an answer."""
        seen = turns_with_visuals(batch, self.stack)
        return {**batch.counts(), "groups": sum(any(turns) for turns in seen)}

    def criterion(self, loss: float, means: dict[str, float]) -> float:
        """Judge by the reward; the loss of a policy says nothing about how good it is."""
        return -means.get("reward", 0.0)

    def forward(
        self, batch: Batch, progress: float, seed: int
    ) -> tuple[dict[str, LossTerm], dict[str, Any]]:
        """Draw actions, reward them, and make the better ones more likely.

        Without gradients, as in evaluations, the one action of each sample is what inference would
        keep: the tokens with the highest scores.

        Args:
            batch: The micro-batch.
            progress: Share of the training that is done: towards its end small budgets are drawn.
            seed: Of turns, budget and actions.

        Returns:
            The policy's part, the anchor's if it is on, and per group: ``reward``, ``spread``
            (standard deviation of the rewards), ``level`` (whether they do not differ) and ``kept``
            (share of visual tokens).
        """
        random = torch.Generator().manual_seed(seed)
        odds = budget_odds(len(self.spec.budgets), self.spec.beta, progress)
        budget = self.spec.budgets[int(torch.multinomial(odds, 1, generator=random))]
        turns = self._draw_turns(batch, random)
        if not turns:
            return self._nothing()
        samples = self._prepare(batch, turns)
        visual = samples.prompt.visual
        scores = self.head.scores(samples.probe, visual)[:, 0]
        # Visual tokens side by side, so that actions and their noise count no text.
        most = max(samples.prompt.visual_counts)
        places = real_first(visual, most)
        real = visual.gather(1, places)
        tiny = torch.finfo(torch.float32).tiny
        logits = scores.gather(1, places).clamp(min=tiny).log().masked_fill(~real, NEVER_DRAWN)
        keep = self._keep(samples.prompt.visual_counts, budget)
        counts = torch.tensor(keep, device=logits.device)
        if torch.is_grad_enabled():
            actions = draw_without_replacement(logits, counts, self.spec.group, random)
        else:
            actions = logits.topk(max(keep), -1).indices[:, None]
        rewards = self._rewards(samples, places, actions, keep).to(logits.device)
        advantage = self.advantages(rewards)
        policy = draw_log_probability(logits, actions, counts)
        parts = {"policy": LossTerm(-(advantage * policy).mean(1).sum(), "groups", 1.0)}
        share = counts / torch.tensor(samples.prompt.visual_counts, device=counts.device)
        if self.spec.anchor:
            parts["anchor"] = self._anchor(samples, scores, budget)
        figures = {
            "reward/groups": rewards.mean(1).sum(),
            "spread/groups": rewards.std(1, correction=0).sum(),
            "level/groups": (advantage == 0).all(1).sum(),
            "kept/groups": share.sum(),
        }
        return parts, figures

    def advantages(self, rewards: Tensor) -> Tensor:
        """Compare the rewards of each group, ``[batch, choices]``.

        The standard deviation is the population's, which divides by the number of choices: it
        describes exactly this group, and the mean square of a group's advantages is one, whatever
        its size. The sample's, which divides by one less, would make all advantages smaller by one
        factor, 1.6% in groups of 32: nothing but another learning rate.

        Returns:
            ``(reward - mean) / std``; 0 where the rewards do not differ.
        """
        spread = rewards.std(1, correction=0, keepdim=True)
        level = rewards.amax(1, keepdim=True) - rewards.amin(1, keepdim=True) <= EQUAL
        return ((rewards - rewards.mean(1, keepdim=True)) / spread).masked_fill(level, 0.0)

    def _draw_turns(self, batch: Batch, random: torch.Generator) -> dict[int, Turn]:
        """Draw one turn of each row that has a picture before one, by row."""
        drawn = {}
        for row, seen in enumerate(turns_with_visuals(batch, self.stack)):
            able = [turn for turn, flag in zip(batch.turns[row], seen, strict=True) if flag]
            number = int(torch.randint(max(1, len(able)), (), generator=random))
            if able:
                drawn[row] = able[number]
        return drawn

    @torch.no_grad()
    def _prepare(self, batch: Batch, turns: dict[int, Turn]) -> DrawnTurns:
        """Cut the samples after the drawn answers, and run shared layers and twig."""
        stack, twig = self.stack, self.twig
        whole = embed_batch(stack, batch)
        rows = torch.tensor(list(turns), device=whole.hidden.device)
        tokens = whole.hidden.shape[1]
        stops = [turn.stop - 1 for turn in turns.values()]
        place = torch.arange(tokens, device=rows.device)
        stays = whole.valid[rows] & (place < torch.tensor(stops, device=rows.device)[:, None])
        lengths = [
            whole.lengths[row] - tokens + stop for row, stop in zip(turns, stops, strict=True)
        ]
        visual_counts = (whole.visual[rows] & stays).sum(1).tolist()
        prompt = pick_rows(whole, rows, stays, lengths, visual_counts)
        answers = [batch.labels[row, turn.start : turn.stop] for row, turn in turns.items()]
        moved = [turn.moved(prompt.hidden.shape[1] - turn.stop + 1) for turn in turns.values()]
        queries = torch.tensor([[turn.query] for turn in moved])
        probed = [self.layer] if self.spec.anchor else []
        starts = None
        if probed and self.spec.teacher_rows == "text":
            found = text_starts(batch.turns, whole.visual, whole.valid)
            starts = [
                [found[row][batch.turns[row].index(turn)] + new.query - turn.query]
                for (row, turn), new in zip(turns.items(), moved, strict=True)
            ]
        teachers = teacher_rows([[turn] for turn in moved], self.spec.teacher_rows, starts)
        rows = teachers.rows
        prompt, near = run_base(stack, prompt, 0, twig.exit_layer, rows=rows, probed=probed)
        with base_precision(prompt.hidden.device):
            _, probe = run_twig(stack, twig, prompt, queries)
        assert probe is not None
        teacher = None
        if probed:
            last = max(twig.exit_layer, self.layer + 1)
            _, far = run_base(stack, prompt, twig.exit_layer, last, rows=rows, probed=probed)
            read = (near | far)[self.layer]
            teacher = teachers.read(read, prompt.visual, self.spec.teacher_softmax)[:, 0]
            teacher = teacher.to(probe.rows.device)
        return DrawnTurns(prompt.to(probe.rows.device), answers, probe, teacher)

    def _rewards(
        self, samples: DrawnTurns, places: Tensor, actions: Tensor, keep: list[int]
    ) -> Tensor:
        """Show the base what each action keeps, ``[batch, choices]``."""
        stack, twig = self.stack, self.twig
        real = torch.arange(actions.shape[2], device=actions.device)
        real = real < torch.tensor(keep, device=actions.device)[:, None, None]
        positions = places[:, None].expand(-1, actions.shape[1], -1).gather(2, actions)
        kept = torch.zeros(
            (*actions.shape[:2], samples.prompt.hidden.shape[1]),
            dtype=torch.bool,
            device=actions.device,
        ).scatter(2, positions, real.expand_as(positions))
        return answer_rewards(
            stack,
            samples.prompt,
            samples.targets,
            kept,
            keep,
            layers=(twig.exit_layer, self.wipe),
            chunk=self.spec.chunk,
        )

    def _anchor(self, samples: DrawnTurns, scores: Tensor, budget: float) -> LossTerm:
        """Hold the scores near the base's attention, the more so the larger the budget."""
        assert samples.teacher is not None
        apart = attention_divergence(samples.teacher, scores)
        weight = self.spec.anchor * anchor_growth(self.spec.budgets, budget)
        return LossTerm(apart.sum(), "groups", weight)

    def _nothing(self) -> tuple[dict[str, LossTerm], dict[str, Any]]:
        """What a batch without a picture before an answer comes to."""
        zero = torch.stack([p.flatten()[:1].sum() * 0.0 for p in self.head.parameters()]).sum()
        parts = {"policy": LossTerm(zero, "groups", 1.0)}
        if self.spec.anchor:
            parts["anchor"] = LossTerm(zero, "groups", self.spec.anchor)
        names = ("reward", "spread", "level", "kept")
        return parts, {f"{name}/groups": 0.0 for name in names}


def anchor_growth(budgets: Sequence[float], budget: float) -> float:
    """Return the factor on the anchor's weight at a budget: 1 at the smallest, 4 at the largest.

    Args:
        budgets: The budgets that are trained, ascending.
        budget: One of them.

    Returns:
        The square of a number that rises evenly from 1 to 2; 1 if there is one budget alone.

    Source: The published code of TwigVLM++, which applies a weight between 1 and 2 twice.
    """
    low, high = budgets[0], budgets[-1]
    return (1.0 + (budget - low) / (high - low)) ** 2 if high > low else 1.0


def budget_odds(count: int, beta: float, progress: float) -> Tensor:
    """Return how likely each of some ascending budgets is at some point of the training.

    Args:
        count: Budgets.
        beta: How strongly training ends on the smallest.
        progress: Share of the training that is done.

    Returns:
        ``[count]`` float32, which add up to one.

    Source: TwigVLM++, arXiv 2503.14075 v3: ``exp(-beta(t) * i)`` with ``beta(t) = 8 (t/T)^2``.
    """
    return (-beta * progress**2 * torch.arange(count)).softmax(0)


@hookimpl
def register_objectives(register: Register[Objective]) -> None:
    """Register stage 2."""
    register("reinforcement", Reinforcement, ReinforcementSpec)
