"""The objective: next tokens of the answers, with smoothed labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from twigkit.interfaces import (
    Batch,
    LayerStack,
    LossTerm,
    Objective,
    ObjectiveSpec,
    Register,
    Twig,
    embed_batch,
    find_answers,
    hookimpl,
    run_base,
    run_twig,
)


class HelloObjectiveSpec(ObjectiveSpec):
    """Settings of the objective."""

    kind: Literal["hello"] = "hello"
    smoothing: float = Field(0.1, ge=0.0, lt=1.0, description="Share of a label given to all.")


class HelloObjective(Objective):
    """Trains the twig's layers, its norm and the head named ``lm``."""

    spec: HelloObjectiveSpec

    def __init__(self, spec: HelloObjectiveSpec, stack: LayerStack, twig: Twig) -> None:
        """Register what trains, and freeze the rest of the twig."""
        super().__init__(spec, stack, twig)
        self.trained = torch.nn.ModuleList([twig.layers, twig.norm, twig.head("lm")])
        twig.requires_grad_(False)
        self.trained.requires_grad_(True)

    def forward(
        self, batch: Batch, progress: float, seed: int
    ) -> tuple[dict[str, LossTerm], dict[str, Any]]:
        """Return the loss, and how often the most likely token is the answer's, as sums."""
        answers = find_answers(batch)
        prompt = embed_batch(self.stack, batch)
        shared, _ = run_base(self.stack, prompt, 0, self.twig.exit_layer)
        states, _ = run_twig(self.stack, self.twig, shared)
        logits = self.twig.head("lm")(self.twig.norm(answers.states(states)[None]))[0].float()
        targets = answers.targets.to(logits.device)
        loss = torch.nn.functional.cross_entropy(
            logits, targets, reduction="sum", label_smoothing=self.spec.smoothing
        )
        right = (logits.argmax(-1) == targets).sum()
        return {"next_token": LossTerm(loss, "tokens", 1.0)}, {"right/tokens": right}


@hookimpl
def register_objectives(register: Register[Objective]) -> None:
    """Register the objective."""
    register("hello", HelloObjective, HelloObjectiveSpec)
