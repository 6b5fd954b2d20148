"""Asks a model the questions of a task by several methods, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

import torch

from twigkit.errors import InputError
from twigkit.evaluation.answers import Answered, AnswerLog
from twigkit.evaluation.inputs import prepare_batch
from twigkit.evaluation.media import read_picture, read_video
from twigkit.evaluation.spec import EvaluationSpec, label
from twigkit.interfaces.task import Example, Response, Task
from twigkit.model import TwigModel

__all__ = ["UNPRUNED", "Way", "answer_all", "batches_of", "responses_of", "ways_of"]

UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Way:
    """One way to answer: a pruner at a budget, and a drafter.

    Attributes:
        budget: Average visual tokens per layer; ``None`` prunes nothing.
        pruner: Settings of the pruner; ``None`` prunes nothing.
        drafter: Settings of the drafter.
    """

    budget: int | float | None
    pruner: Any
    drafter: Any

    @property
    def pruning(self) -> str:
        """Name of the pruner, or that nothing is pruned."""
        return UNPRUNED if self.budget is None else label(self.pruner)

    @property
    def name(self) -> str:
        """Name in files and tables."""
        at = "" if self.budget is None else f" {self.budget:.4g}"
        return f"{self.pruning}{at}, {label(self.drafter)}"


def ways_of(spec: EvaluationSpec) -> list[Way]:
    """List the ways of an evaluation; the first is the reference, unpruned and plain.

    Args:
        spec: Budgets, pruners and drafters.

    Raises:
        InputError: If two would have the same name, under which their answers are kept.
    """
    plain = EvaluationSpec(tasks=spec.tasks, drafters=("plain",)).drafters
    drafters = [*plain, *(each for each in spec.drafters if each not in plain)]
    ways = [Way(None, None, drafter) for drafter in drafters]
    for budget in spec.budgets:
        ways += [Way(budget, p, d) for p in spec.pruners for d in spec.drafters]
    names = [way.name for way in ways]
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise InputError(f"{twice[0]!r} is there twice; name each budget, pruner and drafter once")
    return ways


def batches_of(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Put questions of like length together, with as many pictures each.

    Args:
        examples: The questions.
        size: Questions of a batch, at most.

    Returns:
        The batches, the longest questions first, so that memory that does not suffice is noticed
        at once.

    Raises:
        InputError: If two questions have the same key.
    """
    if len({example.key for example in examples}) < len(examples):
        keys = [example.key for example in examples]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"two questions have the key {twice!r}; a task gives each its own")

    def kind(example: Example) -> tuple[int, bool]:
        return len(example.pictures), example.video is not None

    ordered = sorted(examples, key=lambda each: (kind(each), len(each.prompt)), reverse=True)
    found = []
    for _, alike in groupby(ordered, key=kind):
        own = list(alike)
        found += [own[start : start + size] for start in range(0, len(own), size)]
    return found


def answer_all(
    model: TwigModel,
    processor: Any,
    task: Task,
    batches: Sequence[Sequence[Example]],
    ways: Sequence[Way],
    log: AnswerLog,
    *,
    frames: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Answer every batch by every way, and go on where an earlier run stopped.

    The ways take turns on every batch, each batch beginning with another one, so that whatever else
    the machine does slows all alike. Before the first batch every way answers it once, unmeasured.

    Args:
        model: Base and twig.
        processor: The base's processor.
        task: Says how long answers may be.
        batches: The questions.
        ways: How to answer.
        log: Where answers go and earlier ones lie.
        frames: Frames of a video.
        seed: Of pruners that draw; every batch adds its number.
        progress: Told how many more questions are answered, counting every way.
    """
    warm = False
    for number, examples in enumerate(batches):
        keys = [example.key for example in examples]
        turn = number % len(ways)
        todo = []
        for way in (*ways[turn:], *ways[:turn]):
            there = log.done.get((number, way.name))
            if there is not None and there.keys != keys:
                raise InputError(
                    f"{log.path} holds answers to other questions (batch {number}); give another "
                    "folder with --out"
                )
            if there is None:
                todo.append(way)
            elif progress is not None:
                progress(len(keys))
        if not todo:
            continue
        inputs = _inputs(processor, examples, frames, model.base.device)
        for way in todo if not warm else ():
            _generate(model, inputs, way, min(2, task.max_new_tokens), seed)
        warm = True
        for way in todo:
            output = _generate(model, inputs, way, task.max_new_tokens, seed + number)
            log.add(_answered(processor, output, inputs, number, way, keys))
            if progress is not None:
                progress(len(keys))


def _inputs(
    processor: Any, examples: Sequence[Example], frames: int, device: torch.device
) -> dict[str, Any]:
    """Read the media of a batch and turn it into what the model takes."""
    pictures = [[read_picture(p) for p in example.pictures] for example in examples]
    videos = [read_video(e.video, frames) for e in examples if e.video is not None]
    inputs = prepare_batch(processor, [e.prompt for e in examples], pictures, videos)
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }


def _generate(model: TwigModel, inputs: dict[str, Any], way: Way, most: int, seed: int) -> Any:
    """Answer one batch greedily."""
    pruning = {} if way.budget is None else {"budget": way.budget, "pruner": way.pruner}
    return model.generate(
        **inputs,
        max_new_tokens=most,
        do_sample=False,
        drafter=way.drafter,
        generator=torch.Generator().manual_seed(seed),
        return_dict_in_generate=True,
        **pruning,
    )


def _answered(
    processor: Any, output: Any, inputs: dict[str, Any], number: int, way: Way, keys: list[str]
) -> Answered:
    """Decode the answers of a batch and note what they took."""
    stats, start = output.stats, inputs["input_ids"].shape[1]
    rows = [
        row[start : start + count].tolist()
        for row, count in zip(output.sequences, stats.new_tokens, strict=True)
    ]
    decoded = getattr(processor, "tokenizer", processor)
    return Answered(
        batch=number,
        method=way.name,
        keys=keys,
        texts=[decoded.decode(row, skip_special_tokens=True).strip() for row in rows],
        tokens=sum(stats.new_tokens),
        seconds=stats.prefill_seconds + stats.decode_seconds,
        gained=sum(map(sum, stats.accepted_lengths)),
        steps=sum(map(len, stats.accepted_lengths)),
        visual_per_layer=fmean(stats.visual_per_layer) if stats.visual_per_layer else 0.0,
    )


def responses_of(examples: Sequence[Example], answered: Sequence[Answered]) -> list[Response]:
    """Put answers back into the order of the questions.

    Args:
        examples: The questions.
        answered: The answers of all batches.
    """
    texts = {
        key: text for batch in answered for key, text in zip(batch.keys, batch.texts, strict=True)
    }
    return [Response(example, texts[example.key]) for example in examples]
