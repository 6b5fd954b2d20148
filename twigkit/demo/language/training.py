"""Trains a twig on what the model itself answered: records, draft vocabulary, the run's spec."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from twigkit.backbone.draft_vocabulary import frequent_tokens
from twigkit.io.files import write_whole
from twigkit.model import TwigModel
from twigkit.specs.run import TwigSpec
from twigkit.training.spec import TrainingSpec
from twigkit.twig.cut_vocabulary import cut_vocabulary

__all__ = ["Shape", "start_twig", "training_spec", "write_records"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a twig.

    Attributes:
        exit_layer: Base layers that it shares.
        depth: Its own layers.
        rows: Tokens that its heads score: the most frequent ones of the answers.
        offsets: Tokens that it predicts after the next one, from the same state.
    """

    exit_layer: int
    depth: int
    rows: int
    offsets: int


def write_records(answers: Sequence[Mapping[str, Any]], path: Path) -> int:
    """Write answers as records that training reads; empty ones are left out.

    An answer that was cut off for its length gets an end like any other, since a chat template
    ends every answer: one wrong token in about a hundred, which the target corrects.

    Args:
        answers: Lines of :func:`twigkit.demo.language.answers.write_answers`.
        path: JSONL file.

    Returns:
        How many there are.
    """
    records = [
        {
            "id": f"{line['kind']}-{number}",
            "question": line["prompt"],
            "answer": line["answer"],
        }
        for number, line in enumerate(answers)
        if line["answer"].strip()
    ]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_whole(path, text)
    return len(records)


def start_twig(
    model: TwigModel, base: Path, shape: Shape, answers: Sequence[Mapping[str, Any]], out: Path
) -> None:
    """Write a fresh twig whose heads score the most frequent tokens of some answers.

    Args:
        model: The base; the twig is grown on it.
        base: Folder of the base, which the twig names.
        shape: Sizes of the twig.
        answers: Lines of :func:`twigkit.demo.language.answers.write_answers`.
        out: Folder of the twig.
    """
    heads: dict[str, Any] = {"lm": "lm"}
    if shape.offsets:
        heads["medusa"] = {"kind": "medusa", "offsets": shape.offsets}
    torch.manual_seed(0)
    twig = model.grow(
        TwigSpec.parse(
            {"base": str(base), "exit_layer": shape.exit_layer, "depth": shape.depth,
             "heads": heads}
        )
    )  # fmt: skip
    words = model.stack.vocabulary
    cut_vocabulary(twig, frequent_tokens([a["tokens"] for a in answers], shape.rows, words))
    model.save_twig(out, note="Not trained.", overwrite=True)


def training_spec(
    base: Path,
    start: Path,
    records: Path,
    held_out: Path,
    out: Path,
    *,
    steps: int,
    **settings: Any,
) -> TrainingSpec:
    """Return the run: stage 1 without a teacher beyond the answers, which are the base's own.

    Args:
        base: Folder of the base.
        start: Folder of the twig that :func:`start_twig` wrote.
        records: What is trained on.
        held_out: What is evaluated on.
        out: Folder of the run and of the trained twig.
        steps: Optimiser steps.
        **settings: More fields of the spec.
    """
    run: dict[str, Any] = {
        "base": str(base),
        "twig": str(start),
        "data": {"path": str(records), "evaluation": str(held_out), "workers": 0},
        "objective": {"kind": "distillation", "prediction": 0.0, "medusa": 0.4},
        "optimiser": {"rate": 1e-3, "warmup": 0.05, "floor": 0.05},
        "precision": "fp32",
        "batch": 16,
        "micro_batch": 8,
        "steps": steps,
        "evaluate_every": max(1, steps // 4),
        "save_every": max(1, steps // 20),
        "keep": 1,
        "log_every": 5,
        "out": str(out),
    }
    return TrainingSpec.parse({**run, **settings})
