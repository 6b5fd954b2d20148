"""A whole evaluation: every task by every way, scored and written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twigkit.bench.conditions import conditions
from twigkit.errors import InputError
from twigkit.evaluation.answers import Answered, AnswerLog, check_settings
from twigkit.evaluation.report import as_markdown, plot
from twigkit.evaluation.runner import Way, answer_all, batches_of, responses_of, ways_of
from twigkit.evaluation.score import TaskScore, mean_ratio, ratio, score
from twigkit.evaluation.spec import EvaluationSpec
from twigkit.interfaces.task import Example, Judge, Task
from twigkit.io.files import write_whole
from twigkit.model import TwigModel
from twigkit.plugins.blame import blamed_on, make_plugin

__all__ = ["evaluate"]

Tell = Callable[[str, int], Callable[[int], None]]
"""Makes a progress bar of a name and a number of answers; it is told how many more are there."""


def evaluate(
    model: TwigModel,
    processor: Any,
    spec: EvaluationSpec,
    out: Path,
    *,
    settings: Mapping[str, Any],
    judge: Judge | None = None,
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Answer, score, and write ``eval.json``, ``eval.md``, ``eval.svg`` and submissions.

    Answers lie in ``answers/TASK.jsonl``. What is there is not asked again, so a run that was
    killed goes on where it was.

    Args:
        model: Base and twig.
        processor: The base's processor.
        spec: What to run.
        out: Folder of the results.
        settings: What else decides the answers, such as the names of base and twig.
        judge: A model that judges; ``None`` for none.
        progress: Asked for a bar per task.

    Returns:
        What ``eval.json`` holds.

    Raises:
        InputError: If files of a task are missing, or the folder holds answers of other settings.
        TwigkitError: If the model cannot answer as asked.
    """
    tasks: dict[str, Task] = {each.kind: make_plugin("task", each) for each in spec.tasks}
    examples = {name: _examples(name, task)[: spec.limit] for name, task in tasks.items()}
    decisive = spec.model_dump(mode="json", include={"limit", "batch", "frames", "seed"})
    check_settings(out / "run.json", {**settings, **decisive})
    ways = ways_of(spec)
    found, scores = {}, {}
    for name, task in tasks.items():
        answered = _answer(model, processor, name, task, examples[name], spec, out, progress)
        scores[name] = _scored(task, examples[name], answered, judge)
        _submit(task, examples[name], answered, out / "submissions" / name)
        found[name] = {
            "metric": task.metric,
            "questions": len(examples[name]),
            "all": spec.limit is None,
            "unofficial": task.unofficial(judge),
            "rows": _rows(ways, answered, scores[name]),
        }
    data = {
        "conditions": conditions(model),
        "settings": {**settings, **decisive},
        "tasks": found,
        "overall": _overall(ways, found, scores),
    }
    write_whole(out / "eval.json", json.dumps(data, indent=1) + "\n")
    write_whole(out / "eval.md", as_markdown(data))
    write_whole(out / "eval.svg", plot(data))
    return data


def _answer(
    model: TwigModel,
    processor: Any,
    name: str,
    task: Task,
    examples: Sequence[Example],
    spec: EvaluationSpec,
    out: Path,
    progress: Tell | None,
) -> dict[str, list[Answered]]:
    """Answer a task's questions by every way, as far as they are not answered."""
    asked = json.dumps([[example.key, example.prompt] for example in examples])
    digest = hashlib.sha256(asked.encode()).hexdigest()[:16]
    settings = {**task.spec.model_dump(mode="json"), "prompts (digest)": digest}
    check_settings(out / "answers" / f"{name}.json", settings)
    log, ways = AnswerLog(out / "answers" / f"{name}.jsonl"), ways_of(spec)
    batches = batches_of(examples, spec.batch)
    bar = progress(name, len(ways) * len(examples)) if progress else None
    answer_all(
        model, processor, task, batches, ways, log,
        frames=spec.frames, seed=spec.seed, progress=bar,
    )  # fmt: skip
    return {way.name: log.of(way.name, len(batches)) for way in ways}


def _examples(name: str, task: Task) -> list[Example]:
    """Read a task's questions; files of another form are an error that says so."""
    try:
        found = list(task.examples())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the files of the task {name!r} are not of the form that it reads "
            f"({type(error).__name__}: {error}); docs/evaluation.md says which files it takes"
        ) from error
    if not found:
        raise InputError(f"the files of the task {name!r} hold no question; check its settings")
    return found


def _scored(
    task: Task,
    examples: Sequence[Example],
    answered: Mapping[str, Sequence[Answered]],
    judge: Judge | None,
) -> dict[str, TaskScore | None]:
    """Score every way; all are resampled alike."""
    with blamed_on("task", task):
        return {
            name: score(task, task.outcomes(responses_of(examples, own), judge))
            for name, own in answered.items()
        }


def _submit(
    task: Task, examples: Sequence[Example], answered: Mapping[str, Any], folder: Path
) -> None:
    """Write the official files of every way."""
    for number, (name, own) in enumerate(answered.items()):
        plain = "".join(c if c.isalnum() or c in "-." else "_" for c in name)
        for file, content in task.submission(responses_of(examples, own)).items():
            write_whole(folder / f"{number:02d}-{plain}" / file, content)


def _rows(
    ways: Sequence[Way],
    answered: Mapping[str, Sequence[Answered]],
    scores: Mapping[str, TaskScore | None],
) -> list[dict[str, Any]]:
    """What every way scored and took, beside the first."""
    first = ways[0].name
    rows = []
    for way in ways:
        own, scored, reference = answered[way.name], scores[way.name], scores[first]
        tokens, seconds = sum(a.tokens for a in own), sum(a.seconds for a in own)
        steps = sum(a.steps for a in own)
        questions = sum(len(a.keys) for a in own)
        relative = ratio(scored, reference) if scored and reference else None
        rows.append(
            {
                "method": way.name,
                "pruner": way.pruning,
                "budget": way.budget,
                "drafter": way.name.rpartition(", ")[2],
                **(scored.as_data() if scored else {"score": None}),
                "relative": relative and vars(relative),
                "tokens": tokens,
                "seconds": seconds,
                "tokens_per_second": tokens / seconds if seconds else 0.0,
                "accepted_length": sum(a.gained for a in own) / steps if steps else None,
                "visual_per_layer": sum(a.visual_per_layer * len(a.keys) for a in own) / questions,
            }
        )
    for row in rows:
        row["rel_speed"] = _share(row["tokens_per_second"], rows[0]["tokens_per_second"])
    return rows


def _share(own: float, reference: float) -> float | None:
    return own / reference if reference else None


def _overall(
    ways: Sequence[Way],
    found: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, TaskScore | None]],
) -> list[dict[str, Any]]:
    """RelAcc and RelSpd of every way over all tasks."""
    first, rows = ways[0].name, []
    for place, way in enumerate(ways):
        pairs = [
            (own[way.name], own[first]) for own in scores.values() if own[way.name] and own[first]
        ]
        relative = mean_ratio(pairs)  # type: ignore[arg-type] # both are there
        took = [task["rows"][place] for task in found.values()]
        base = [task["rows"][0] for task in found.values()]
        speeds = [
            sum(row["tokens"] for row in many) / max(sum(row["seconds"] for row in many), 1e-12)
            for many in (took, base)
        ]
        rows.append(
            {
                "method": way.name,
                "pruner": way.pruning,
                "budget": way.budget,
                "drafter": way.name.rpartition(", ")[2],
                "tasks": len(pairs),
                "rel_acc": relative and vars(relative),
                "rel_speed": _share(*speeds),
            }
        )
    return rows
