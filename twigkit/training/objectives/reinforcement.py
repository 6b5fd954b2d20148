"""Stage 2: the pruning head learns which tokens to keep from how well the pruned base answers.

An action is a set of visual tokens, drawn one after another by the head's scores. Its reward is the
mean log-probability that the base, shown these tokens alone, gives the reference answer; what
counts is how it compares with the other actions drawn for the same sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from twigkit.backbone.packing import real_first
from twigkit.backbone.probes import RowProbe
from twigkit.backbone.prompt import Prompt
from twigkit.errors import CapabilityError
from twigkit.interfaces.budget import keep_counts, wipe_layer
from twigkit.interfaces.head import Scorer
from twigkit.interfaces.objective import Objective, Part
from twigkit.learning.attention_targets import teacher_layer, teacher_rows
from twigkit.learning.batch import Batch, Turn
from twigkit.learning.forward import advance, branch, embed, exact, pick, seen_from
from twigkit.learning.head_lookup import head_with
from twigkit.learning.losses import attention_divergence
from twigkit.learning.plackett_luce import NEVER, draw, log_probability
from twigkit.learning.rewards import answer_rewards
from twigkit.model import TwigModel
from twigkit.training.spec import ReinforcementSpec

EQUAL = 1e-5
"""Rewards of a group that lie closer together than this differ by rounding alone."""


@dataclass(frozen=True)
class Samples:
    """What one call works on: one turn of each row that has a picture in front of one.

    Attributes:
        prompt: Prompts with their answers but for the last token, which predicts nothing; behind
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

    measure: ClassVar[str] = "negative reward"

    def __init__(self, spec: ReinforcementSpec, model: TwigModel) -> None:
        """Freeze all of the twig but its pruning head.

        Args:
            spec: Settings.
            model: Base and twig.

        Raises:
            CapabilityError: If there is no twig, or it has no pruning head.
            BudgetError: If the base's layers cannot meet one of the budgets.
            SpecError: If the base has no such teacher layer.
        """
        super().__init__()
        if model.twig is None:
            raise CapabilityError("there is no twig to train; load one, stage 2 follows stage 1")
        name = head_with(model.twig, "scores")
        head = None if name is None else model.twig.head(name)
        if head is None or not isinstance(head, Scorer):
            raise CapabilityError(
                f"the twig has no pruning head to train; it has {', '.join(model.twig.heads)}. "
                "Grow one and train it with the objective 'distillation' first"
            )
        self.spec, self.head = spec, head
        self._base = (model.stack, model.twig)  # in a tuple: no part of this module
        model.twig.requires_grad_(False).eval()
        self.head.requires_grad_(True)
        depth = model.stack.depth
        self.wipe = wipe_layer(depth, spec.wipe_layer)
        self.layer = teacher_layer(depth, spec.teacher_layer)
        for budget in spec.budgets:
            self._keep([576], budget)

    def _keep(self, visual: list[int], budget: float) -> list[int]:
        """How many visual tokens each row keeps, as at inference."""
        stack, twig = self._base
        return keep_counts(
            visual, budget, depth=stack.depth, exit_layer=twig.exit_layer, wipe=self.wipe
        )

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count answer tokens, rows, and rows with a picture in front of an answer."""
        seen = seen_from(batch, self._base[0])
        return {**batch.counts(), "groups": sum(any(turns) for turns in seen)}

    def criterion(self, loss: float, means: dict[str, float]) -> float:
        """Judge by the reward; the loss of a policy says nothing about how good it is."""
        return -means.get("reward", 0.0)

    def forward(
        self, batch: Batch, progress: float, seed: int
    ) -> tuple[dict[str, Part], dict[str, float]]:
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
        logits = scores.gather(1, places).clamp(min=tiny).log().masked_fill(~real, NEVER)
        keep = self._keep(samples.prompt.visual_counts, budget)
        counts = torch.tensor(keep, device=logits.device)
        if torch.is_grad_enabled():
            actions = draw(logits, counts, self.spec.group, random)
        else:
            actions = logits.topk(max(keep), -1).indices[:, None]
        rewards = self._rewards(samples, places, actions, keep).to(logits.device)
        advantage = self.advantages(rewards)
        policy = log_probability(logits, actions, counts)
        parts = {"policy": Part(-(advantage * policy).mean(1).sum(), "groups", 1.0)}
        share = counts / torch.tensor(samples.prompt.visual_counts, device=counts.device)
        if self.spec.anchor:
            parts["anchor"] = self._anchor(samples, scores, budget)
        figures = {
            "reward/groups": rewards.mean(1).sum(),
            "spread/groups": rewards.std(1, correction=0).sum(),
            "level/groups": (advantage == 0).all(1).sum(),
            "kept/groups": share.sum(),
        }
        return parts, figures  # type: ignore[return-value]

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
        """Draw one turn of each row that has a picture in front of one, by row."""
        drawn = {}
        for row, seen in enumerate(seen_from(batch, self._base[0])):
            able = [turn for turn, flag in zip(batch.turns[row], seen, strict=True) if flag]
            number = int(torch.randint(max(1, len(able)), (), generator=random))
            if able:
                drawn[row] = able[number]
        return drawn

    @torch.no_grad()
    def _prepare(self, batch: Batch, turns: dict[int, Turn]) -> Samples:
        """Cut the samples behind the drawn answers, and run shared layers and twig."""
        stack, twig = self._base
        whole = embed(stack, batch)
        rows = torch.tensor(list(turns), device=whole.hidden.device)
        tokens = whole.hidden.shape[1]
        stops = [turn.stop - 1 for turn in turns.values()]
        place = torch.arange(tokens, device=rows.device)
        stays = whole.valid[rows] & (place < torch.tensor(stops, device=rows.device)[:, None])
        lengths = [
            whole.lengths[row] - tokens + stop for row, stop in zip(turns, stops, strict=True)
        ]
        visual_counts = (whole.visual[rows] & stays).sum(1).tolist()
        prompt = pick(whole, rows, stays, lengths, visual_counts)
        answers = [batch.labels[row, turn.start : turn.stop] for row, turn in turns.items()]
        moved = [turn.moved(prompt.hidden.shape[1] - turn.stop + 1) for turn in turns.values()]
        queries = torch.tensor([[turn.query] for turn in moved])
        probed = [self.layer] if self.spec.anchor else []
        teachers = teacher_rows([[turn] for turn in moved], self.spec.teacher_rows)
        rows = teachers.rows
        prompt, near = advance(stack, prompt, 0, twig.exit_layer, rows=rows, probed=probed)
        with exact(prompt.hidden.device):
            _, probe = branch(stack, twig, prompt, queries)
        assert probe is not None
        teacher = None
        if probed:
            last = max(twig.exit_layer, self.layer + 1)
            _, far = advance(stack, prompt, twig.exit_layer, last, rows=rows, probed=probed)
            read = (near | far)[self.layer]
            teacher = teachers.read(read, prompt.visual, self.spec.teacher_softmax)[:, 0]
            teacher = teacher.to(probe.rows.device)
        return Samples(prompt.to(probe.rows.device), answers, probe, teacher)

    def _rewards(
        self, samples: Samples, places: Tensor, actions: Tensor, keep: list[int]
    ) -> Tensor:
        """Show the base what each action keeps, ``[batch, choices]``."""
        stack, twig = self._base
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

    def _anchor(self, samples: Samples, scores: Tensor, budget: float) -> Part:
        """Hold the scores near the base's attention, the more so the larger the budget."""
        assert samples.teacher is not None
        apart = attention_divergence(samples.teacher, scores)
        weight = self.spec.anchor * anchor_growth(self.spec.budgets, budget)
        return Part(apart.sum(), "groups", weight)

    def _nothing(self) -> tuple[dict[str, Part], dict[str, float]]:
        """What a batch without a picture in front of an answer comes to."""
        zero = torch.stack([p.flatten()[:1].sum() * 0.0 for p in self.head.parameters()]).sum()
        parts = {"policy": Part(zero, "groups", 1.0)}
        if self.spec.anchor:
            parts["anchor"] = Part(zero, "groups", self.spec.anchor)
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
