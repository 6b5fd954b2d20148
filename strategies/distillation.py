"""Stage 1: a twig learns the answers, the base's predictions and the base's attention.

The layers that twig and base share run once. Without the terms that need a teacher no other base
layer runs; with the attention alone they run up to the teacher's; only the predictions need all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from twigkit.interfaces import (
    IGNORED,
    Answers,
    Batch,
    BatchSize,
    CapabilityError,
    CountOrFraction,
    Divergence,
    LayerStack,
    LossTerm,
    Objective,
    ObjectiveSpec,
    Prompt,
    Register,
    RowProbe,
    Twig,
    Workload,
    ahead_sums,
    attention_divergence,
    base_precision,
    embed_batch,
    find_answers,
    head_name_for,
    hookimpl,
    query_rows,
    run_base,
    run_twig,
    teacher_layer,
    teacher_rows,
    text_starts,
    token_sums,
    turns_with_visuals,
    verifications,
)

TERMS = {
    "next_token": ("next-token", 1.0),
    "prediction": ("next-token", 0.1),
    "attention": ("scores", 1.0),
    "medusa": ("several-tokens", 0.2),
}
"""What each term of the loss asks of a head, and its weight where the spec gives none.

Source: TwigVLM++, arXiv 2503.14075 v3; Medusa-1's weight, Cai et al. 2024, arXiv 2401.10774 §2.2.
"""


LOGIT_COPIES = 5
"""Logits that exist at a time per compared token: of twig and base, their softmax, a gradient."""


class DistillationSpec(ObjectiveSpec):
    """Stage 1: next tokens, and the base's predictions and attention as teachers.

    Source: TwigVLM++, arXiv 2503.14075 v3, and its published code.
    """

    kind: Literal["distillation"] = Field("distillation", description="Name of the objective.")
    next_token: float | None = Field(
        None,
        ge=0.0,
        description="Weight of the cross-entropy on the answer tokens; None for 1.0 if the twig "
        "has a head for the next token.",
    )
    prediction: float | None = Field(
        None,
        ge=0.0,
        description="Weight of the divergence from the base's predictions; None for 0.1 if the "
        "twig has a head for the next token.",
    )
    attention: float | None = Field(
        None,
        ge=0.0,
        description="Weight of the divergence from the base's attention to visual tokens; None for "
        "1.0 if the twig has a pruning head.",
    )
    medusa: float | None = Field(
        None,
        ge=0.0,
        description="Weight of the cross-entropy of the first token after the next one; None for "
        "0.2 if the twig has heads that look further ahead.",
    )
    medusa_decay: float = Field(
        0.8, gt=0.0, le=1.0, description="Factor on that weight per further token ahead."
    )
    temperature: float = Field(
        5.0, gt=0.0, le=100.0, description="Temperature of the prediction divergence."
    )
    scale: float = Field(
        25.0, gt=0.0, description="Factor on the prediction divergence of a token, before the clip."
    )
    clip: float = Field(
        4.0,
        gt=0.0,
        description="Largest value of a token's loss after scaling, whose gradient keeps its "
        "direction; the mean is divided by it again.",
    )
    teacher_layer: CountOrFraction = Field(
        19 / 32,
        description="Base layer whose attention is the teacher: an index from 0, or a fraction of "
        "the depth (19 of 32 in the paper).",
    )
    teacher_rows: Literal["query", "text", "answer"] = Field(
        "query",
        description="Rows of that attention: the last prompt token's, which is the one that scores "
        "at inference, or the mean over those of the prompt's text or over those that predict the "
        "answer.",
    )
    teacher_softmax: Literal["visual", "all"] = Field(
        "visual",
        description="Keys that each head's softmax runs over in that attention: the visual tokens "
        "alone, as published, or all tokens, with the mean over heads brought to a sum of one.",
    )
    chunk: int = Field(
        256, ge=1, description="Answer tokens whose predictions are compared at a time."
    )


@dataclass(frozen=True)
class TeacherOutputs:
    """What the base says about a batch.

    Attributes:
        shared: The samples after the exit layer.
        states: The base's last states of the places that predict answers, ``[places, width]``;
            ``None`` if its predictions do not teach.
        attention: The base's attention for each turn, ``[batch, turns, tokens]``; ``None`` if it
            does not teach, or nothing is visual.
    """

    shared: Prompt
    states: Tensor | None
    attention: Tensor | None


class Distillation(Objective):
    """Trains a twig's layers, norm and heads.

    Attributes:
        trained: The twig; what no term reaches is frozen.
        weights: Weight of every term.
        layer: Base layer whose attention teaches.
        offsets: Tokens that are predicted after the next one.
    """

    def __init__(self, spec: DistillationSpec, stack: LayerStack, twig: Twig) -> None:
        """Find out which terms the twig has heads for.

        Args:
            spec: Weights and settings.
            stack: The base.
            twig: The twig.

        Raises:
            CapabilityError: If the twig lacks the head of a term that the spec asks for, or no
                term is left.
            SpecError: If the base has no such teacher layer.
        """
        super().__init__(spec, stack, twig)
        self.trained = twig
        names = {what: head_name_for(twig, what) for what, _ in TERMS.values()}
        self.weights = _weights(spec, names, twig)
        self._names = {what: name for what, name in names.items() if name is not None}
        self.layer = teacher_layer(stack.depth, spec.teacher_layer)
        self._divergence = Divergence(spec.temperature, spec.scale, spec.clip)
        self.offsets = self._count_offsets() if self.weights["medusa"] else 0
        self._free()

    def workload(self, size: BatchSize) -> Workload:
        """Count all tokens through base and twig, and the logits of a chunk of answer tokens."""
        logits = LOGIT_COPIES * self.spec.chunk * self.stack.vocabulary
        return Workload(size.tokens, size.tokens, logits=logits)

    def _head(self, capability: str) -> nn.Module:
        """The head for a capability."""
        return self.twig.head(self._names[capability])

    @torch.no_grad()
    def _count_offsets(self) -> int:
        """Ask the heads that look ahead how far they look."""
        weight = next(self.twig.parameters())
        width = self.stack.model.get_input_embeddings().weight.shape[1]
        empty = torch.zeros(1, 0, width, dtype=weight.dtype, device=weight.device)
        return int(self._head("several-tokens")(empty).shape[2])

    def _free(self) -> None:
        """Let exactly those parameters train that a term reaches."""
        self.twig.requires_grad_(False)
        self.twig.layers.requires_grad_(True)
        predicts = self.weights["next_token"] or self.weights["prediction"]
        self.twig.norm.requires_grad_(bool(predicts or self.weights["medusa"]))
        on = {TERMS[term][0] for term, weight in self.weights.items() if weight}
        for capability in on:
            self._head(capability).requires_grad_(True)
        # The scores end where the last layer attends; what it does then has no say in them.
        self._idle = [] if on != {"scores"} else list(self.twig.layers[-1].parameters())

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count answer tokens, rows, turns with visual tokens before them, and tokens ahead."""
        counts = batch.counts()
        if self.weights["attention"]:
            counts["queries"] = sum(sum(seen) for seen in turns_with_visuals(batch, self.stack))
        if self.offsets:
            left = (find_answers(batch, self.offsets).ahead != IGNORED).sum(0).tolist()
            counts |= {f"ahead_{number}": count for number, count in enumerate(left, 1)}
        return counts

    def forward(
        self, batch: Batch, progress: float, seed: int
    ) -> tuple[dict[str, LossTerm], dict[str, Any]]:
        """Run shared layers, teacher and twig, and compare.

        Args:
            batch: The micro-batch.
            progress: Of no effect here.
            seed: Of no effect here; nothing is drawn.

        Returns:
            One part for each term that is on, and how often the twig chooses the answer's token
            (``right``) and the base's (``agree``).
        """
        answers = find_answers(batch, self.offsets)
        queries = query_rows(batch) if self.weights["attention"] else None
        taught = self._teach(batch, answers)
        states, probe = run_twig(self.stack, self.twig, taught.shared, queries)
        parts: dict[str, LossTerm] = {}
        figures: dict[str, Any] = {}
        self._add_predictions(states, answers, taught, parts, figures)
        if probe is not None:
            parts["attention"] = self._attention(batch, taught, probe)
        return parts, figures

    def examine(self, batch: Batch) -> dict[str, float]:
        """Find out how far drafts would get if the base gave the reference answers.

        Costs a pass of the draft model; no later layer of the base runs.

        Args:
            batch: The micro-batch.

        Returns:
            Answer tokens over the verifications that they would take (``accepted``: the accepted
            length); nothing if no next tokens are learnt.
        """
        if not (self.weights["next_token"] or self.weights["prediction"]):
            return {}
        stack, answers = self.stack, find_answers(batch)
        shared, _ = run_base(stack, embed_batch(stack, batch), 0, self.twig.exit_layer)
        normed = self.twig.norm(answers.states(run_twig(stack, self.twig, shared)[0]))
        head = self._head("next-token")
        chosen = [head(part[None])[0].argmax(-1) for part in normed.split(self.spec.chunk)]
        targets = answers.targets.to(normed.device)
        right = torch.cat([targets[:0], *chosen]) == targets
        steps = verifications(right, answers.numbers.to(normed.device))
        return {"accepted/verifications": float(len(targets)), "verifications": float(steps)}

    def _teach(self, batch: Batch, answers: Answers) -> TeacherOutputs:
        """Run the base up to the deepest layer that a loss term needs."""
        stack, exit_layer = self.stack, self.twig.exit_layer
        prompt = embed_batch(stack, batch)
        looks = self.weights["attention"] and any(prompt.visual_counts)
        probed = [self.layer] if looks else []
        starts = None
        if probed and self.spec.teacher_rows == "text":
            starts = text_starts(batch.turns, prompt.visual, prompt.valid)
        teachers = teacher_rows(batch.turns, self.spec.teacher_rows, starts)
        shared, near = run_base(stack, prompt, 0, exit_layer, rows=teachers.rows, probed=probed)
        last = stack.depth if self.weights["prediction"] else exit_layer
        last = max([last, *(layer + 1 for layer in probed)])
        deep, far = run_base(stack, shared, exit_layer, last, rows=teachers.rows, probed=probed)
        states = answers.states(deep.hidden) if self.weights["prediction"] else None
        probes = near | far
        attention = None
        if probes:
            softmax = self.spec.teacher_softmax
            attention = teachers.read(probes[self.layer], shared.visual, softmax)
        return TeacherOutputs(shared, states, attention)

    def _add_predictions(
        self,
        states: Tensor,
        answers: Answers,
        taught: TeacherOutputs,
        parts: dict[str, LossTerm],
        figures: dict[str, Any],
    ) -> None:
        """Compare what the twig predicts with the answers and the base's predictions."""
        weights = self.weights
        if not (weights["next_token"] or weights["prediction"] or weights["medusa"]):
            return
        normed = self.twig.norm(answers.states(states))
        if weights["next_token"] or weights["prediction"]:
            taught_by_base = taught.states is not None
            to_logits, targets = self._scored("next-token", answers.targets, whole=taught_by_base)
            entropy, apart, right, same = token_sums(
                normed,
                targets.to(normed.device),
                to_logits,
                chunk=self.spec.chunk,
                teacher=None if taught.states is None else (taught.states, self._base_logits),
                divergence=self._divergence,
            )
            figures["right/tokens"] = right.detach()
            if weights["next_token"]:
                parts["next_token"] = LossTerm(entropy, "tokens", weights["next_token"])
            if weights["prediction"]:
                parts["prediction"] = LossTerm(apart, "tokens", weights["prediction"])
                figures["agree/tokens"] = same.detach()
        if weights["medusa"]:
            to_logits, targets = self._scored("several-tokens", answers.ahead)
            sums = ahead_sums(normed, targets.to(normed.device), to_logits, chunk=self.spec.chunk)
            for number, (entropy, right) in enumerate(sums.unbind(1), 1):
                weight = weights["medusa"] * self.spec.medusa_decay ** (number - 1)
                parts[f"medusa_{number}"] = LossTerm(entropy, f"ahead_{number}", weight)
                figures[f"right_{number}/ahead_{number}"] = right.detach()

    def _scored(
        self, capability: str, targets: Tensor, whole: bool = False
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return what makes logits of states, and the targets by their places among the logits.

        A head that scores a part of the vocabulary makes logits of that part alone, unless they are
        compared with the base's; targets beyond it count nothing.
        """
        head: Any = self._head(capability)
        drafted, scored = getattr(head, "drafted", None), getattr(head, "scored", None)
        if drafted is None or scored is None or whole:
            return lambda part: head(part[None])[0], targets
        return lambda part: scored(part[None])[0], drafted.places(targets, missing=IGNORED)

    def _base_logits(self, states: Tensor) -> Tensor:
        """Apply the base's norm and head, as at inference."""
        with base_precision(states.device):
            return self.stack.head(self.stack.norm(states))

    def _attention(self, batch: Batch, taught: TeacherOutputs, probe: RowProbe) -> LossTerm:
        """Compare the pruning head's scores with the base's attention, turn by turn."""
        visual = taught.shared.visual.to(probe.rows.device)
        scorer = self._head("scores")
        scores: Tensor = scorer.scores(probe, visual)  # type: ignore[operator]
        if taught.attention is None:
            total = (scores * 0.0).sum()
        else:
            apart = attention_divergence(taught.attention.to(scores.device), scores)
            seen = turns_with_visuals(batch, self.stack)
            real = torch.tensor([row + [False] * (apart.shape[1] - len(row)) for row in seen])
            total = apart.masked_fill(~real.to(apart.device), 0.0).sum()
        for parameter in self._idle:
            total = total + parameter.flatten()[:1].sum() * 0.0
        return LossTerm(total, "queries", self.weights["attention"])


def _weights(spec: DistillationSpec, names: dict[str, str | None], twig: Twig) -> dict[str, float]:
    """Resolve the weights of all terms; a term whose head is missing is off unless asked for."""
    weights: dict[str, float] = {}
    for term, (capability, usual) in TERMS.items():
        asked = getattr(spec, term)
        if asked and names[capability] is None:
            raise CapabilityError(
                f"the loss {term!r} has the weight {asked:g}, but the twig has no head that does "
                f"{capability!r}; it has {', '.join(twig.heads) or 'none'}. Grow one, or leave the "
                "weight out"
            )
        missing = names[capability] is None
        weights[term] = 0.0 if missing else usual if asked is None else asked
    if not any(weights.values()):
        raise CapabilityError(
            "no loss is left: every weight is 0, or the twig lacks the head that it needs"
        )
    return weights


@hookimpl
def register_objectives(register: Register[Objective]) -> None:
    """Register stage 1."""
    register("distillation", Distillation, DistillationSpec)
