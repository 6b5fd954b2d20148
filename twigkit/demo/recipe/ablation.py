"""The cells of a sweep on the demo: each twig is trained from its start, then asked and let draft.

``twigkit bench sweep`` runs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from twigkit.bench.methods import Inputs, Method
from twigkit.bench.sweep import DEPTH, EXIT, Cell, Measured
from twigkit.demo.pool import scene_of
from twigkit.demo.recipe.acceptance import DESCRIBED
from twigkit.demo.recipe.accuracy import FIRST, make_questions
from twigkit.demo.recipe.twig import TEACHER
from twigkit.demo.world import draw
from twigkit.evaluation.exact import exact_matches
from twigkit.io.processors import load_processor, prepare
from twigkit.model import TwigModel
from twigkit.training.spec import TrainingSpec
from twigkit.training.trainer import train

BATCH = 36
"""Questions at once."""

HEADS = {"lm": {"kind": "lm"}, "pruning": {"kind": "pruning"}}

SOURCE = "twigkit.demo.recipe.stream:Stream"

SAMPLES = 200_000
"""Samples of the demo world to train on; none of a run is seen twice."""


@dataclass(frozen=True)
class Size:
    """How much is trained and asked.

    Attributes:
        steps: Steps of stage 1.
        batch: Samples of such a step.
        actions: Steps of stage 2 that stand for the paper's 50 K samples.
        group: Actions drawn per sample of stage 2.
        questions: Held-out questions, of all kinds in turn.
        described: Held-out pictures that are described with drafts.
    """

    steps: int = 300
    batch: int = 32
    actions: int = 60
    group: int = 32
    questions: int = 480
    described: int = 8

    def told(self) -> dict[str, int]:
        """Return the numbers by what they count, as tables say it."""
        return {
            "steps of stage 1": self.steps,
            "samples a step": self.batch,
            "steps of stage 2 for 50 K samples": self.actions,
            "actions a sample": self.group,
            "questions": self.questions,
            "descriptions": self.described,
        }


QUICK = Size(steps=4, batch=4, actions=2, group=4, questions=12, described=1)
"""A look at whether everything runs; its figures mean nothing."""


@dataclass
class Ablation:
    """Trains and measures cells on a base.

    Attributes:
        base: Folder of the base.
        work: Folder of the twigs; one that was trained is not trained again.
        size: How much is trained and asked.
    """

    base: Path
    work: Path
    size: Size = field(default_factory=Size)

    def __post_init__(self) -> None:
        """Prepare what every cell is asked."""
        self.questions = make_questions(self.base, self.size.questions)
        self.described = describe_prompts(self.base, self.size.described)
        self._known: dict[str, Any] = {}

    def measure(self, cell: Cell | None) -> Measured:
        """Train the cell's twig unless it lies there, answer by its pruners, and draft.

        Args:
            cell: The cell; ``None`` for the unpruned base.
        """
        if cell is None:
            base = TwigModel.from_pretrained(self.base, dtype=torch.float32)
            right = self._answers(base, {"unpruned": None}, None)
            return {"right": right, "accepted": None}
        folder = self.trained(cell)
        model = TwigModel.from_pretrained(self.base, twig=folder, dtype=torch.float32)
        if folder.name not in self._known:
            self._known[folder.name] = accepted_length(model, self.described)
        return {
            "right": self._answers(model, cell.pruners, cell.budget, folder.name),
            "accepted": self._known[folder.name],
        }

    def trained(self, cell: Cell) -> Path:
        """Return the folder of the cell's twig, trained.

        Args:
            cell: The cell.
        """
        name = hashlib.sha256(cell.training.encode()).hexdigest()[:12]
        twig = {"base": "demo", "exit_layer": EXIT, "depth": DEPTH, "heads": HEADS, **cell.twig}
        steps = max(1, round(cell.share * self.size.steps))
        first = self._train(
            {
                "twig": twig,
                "objective": {"kind": "distillation", **TEACHER, **cell.objective},
                "optimiser": {"rate": 1e-3, "floor": 0.02},
                "batch": self.size.batch,
                "micro_batch": min(16, self.size.batch),
                "steps": steps,
                "seed": 11,
                "data": {"options": {"samples": SAMPLES, "described": 0.3}},
            },
            self.work / f"{name}-stage-1",
        )
        if not cell.reinforcement:
            return first
        return self._train(
            {
                "twig": str(first),
                "objective": {"kind": "reinforcement", "group": self.size.group, "anchor": 0.1,
                              **TEACHER},
                "optimiser": {"rate": 3e-4, "floor": 0.1},
                "batch": 4,
                "micro_batch": 4,
                "steps": max(1, round(cell.reinforcement * self.size.actions)),
                "seed": 12,
                "data": {"options": {"samples": SAMPLES // 4, "described": 0.02, "first": 60_000}},
            },
            self.work / f"{name}-stage-2-{cell.reinforcement:g}",
        )  # fmt: skip

    def _train(self, settings: Mapping[str, Any], out: Path) -> Path:
        """Train, or go on with what lies there; a finished run is left as it is."""
        if not (out / "finished.json").exists():
            data = {"source": SOURCE, "workers": 0, **settings["data"]}
            given = {**settings, "data": data, "base": str(self.base), "out": str(out)}
            spec = TrainingSpec.model_validate(given | {"runtime": {"dtype": "bfloat16"}})
            train(spec, show=False)
            (out / "finished.json").write_text(json.dumps({"steps": settings["steps"]}) + "\n")
        return out

    def _answers(
        self, model: TwigModel, pruners: Mapping[str, Any], budget: float | None, twig: str = ""
    ) -> dict[str, list[int]]:
        """Answer all questions by each pruner, 0 or 1 per question; what is known is not asked."""
        found = {}
        for name, spec in pruners.items():
            key = json.dumps([twig, spec, budget])
            if key not in self._known:
                method = Method(name, budget=budget, pruner=spec or "ttp")
                right = exact_matches(model, self.questions, method, batch=BATCH)
                self._known[key] = [int(one) for one in right]
            found[name] = self._known[key]
        return found


def describe_prompts(base: Path, count: int) -> list[Inputs]:
    """Ask for descriptions of held-out pictures.

    Args:
        base: Folder of the base, whose processor prepares them.
        count: Pictures.
    """
    processor = load_processor(base)
    scenes = [scene_of(FIRST + DESCRIBED + number) for number in range(count)]
    return [prepare(processor, "describe the picture .", [draw(scene)]) for scene in scenes]


def accepted_length(model: TwigModel, prompts: Sequence[Inputs]) -> float:
    """Return the tokens that a verification gains, by a path of drafts.

    Args:
        model: Base and twig.
        prompts: The processor's outputs, one prompt each.
    """
    gains: list[int] = []
    for inputs in prompts:
        output: Any = model.generate(
            **inputs, max_new_tokens=96, drafter="ssd", return_dict_in_generate=True
        )
        gains += output.stats.accepted_lengths[0]
    return fmean(gains) if gains else 1.0


__all__ = ["QUICK", "Ablation", "Size", "accepted_length", "describe_prompts"]
