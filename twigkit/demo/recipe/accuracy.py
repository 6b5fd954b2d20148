"""Accuracy of the demo under pruning: twigs, pruners and budgets on the same held-out questions.

``python -m twigkit.demo.recipe.accuracy --twig NAME=DIR ... --out FILE`` answers every question
unpruned and by every pruner that a twig serves, and writes a table of relative accuracies.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from twigkit.bench.conditions import processor_name, versions
from twigkit.bench.methods import Method
from twigkit.bench.table import markdown_table
from twigkit.demo.pool import HELD_OUT, scene_of
from twigkit.demo.questions import KINDS, Turn, ask
from twigkit.demo.world import Scene, draw
from twigkit.evaluation.exact import Question, exact_matches
from twigkit.evaluation.relative import relative_accuracy
from twigkit.io.files import write_whole
from twigkit.io.processors import load_processor, prepare
from twigkit.model import TwigModel

FIRST = HELD_OUT + 1_000_000
"""Seed of the first scene; no training, check, card or demo uses scenes from here on."""

BUDGETS = (1 / 9, 2 / 9, 1 / 3)
UNPRUNED = "unpruned"
WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Job:
    """One way to answer all questions.

    Attributes:
        twig: Name of the twig.
        folder: Where it lies; ``None`` for the base alone.
        pruner: Name of the pruner; empty to prune nothing.
        budget: Share of the visual tokens.
        wipe_layer: Layer after which none is left; ``None`` for the pruner's own.
    """

    twig: str
    folder: Path | None
    pruner: str
    budget: float | None
    wipe_layer: int | None = None

    @property
    def name(self) -> str:
        """Twig and pruner."""
        if not self.pruner:
            return UNPRUNED
        wiped = "" if self.wipe_layer is None else f", wiped after {self.wipe_layer}"
        return f"{self.twig}, {self.pruner}{wiped}"

    @property
    def method(self) -> Method:
        """How questions are answered."""
        pruner: Any = self.pruner or "ttp"
        if self.wipe_layer is not None:
            pruner = {"kind": pruner, "wipe_layer": self.wipe_layer}
        return Method(self.name, budget=self.budget, pruner=pruner)


def make_questions(base: Path, number: int, first: int = FIRST) -> list[Question]:
    """Ask about held-out scenes, one question of each kind in turn.

    Args:
        base: Folder of the base, whose processor prepares them.
        number: Questions.
        first: Seed of the first scene.
    """
    processor = load_processor(base)
    tokenizer = processor.tokenizer
    found = []
    for scene, turn in islice(turns(first), number):
        answer = tokenizer(turn.answer, add_special_tokens=False).input_ids
        inputs = prepare(processor, turn.question, [draw(scene)])
        found.append(Question(inputs, (*answer, tokenizer.eos_token_id), turn.kind))
    return found


def turns(first: int) -> Iterator[tuple[Scene, Turn]]:
    """Ask one question of each kind about scene after scene, from the one with seed ``first``."""
    for seed in count(first):
        scene, rng = scene_of(seed), random.Random(f"accuracy {seed}")
        for kind in KINDS:
            turn = ask(kind, scene, rng)
            if turn is not None:
                yield scene, turn


def jobs_of(twigs: dict[str, str], budgets: Sequence[float]) -> list[Job]:
    """List what is to be answered: unpruned, at random, and by what each twig's heads allow.

    Args:
        twigs: Folder of each twig by name; one pruner alone may follow it, as in
            ``DIR@p-head``, and layers after which it leaves no visual token, each measured
            besides its own, as in ``DIR@p-head:16,12``.
        budgets: Shares of the visual tokens.
    """
    jobs = [Job("", None, "", None)]
    for index, (name, given) in enumerate(twigs.items()):
        path, _, only = given.partition("@")
        only, _, wiped = only.partition(":")
        folder = Path(path)
        heads = json.loads((folder / "twig.json").read_text(encoding="utf-8"))["spec"]["heads"]
        pruners = ["random"] if not index else []
        pruners += [only] if only else ["ttp", *(["p-head"] if "pruning" in heads else [])]
        layers = [None, *map(int, wiped.split(","))] if wiped else [None]
        for pruner, layer, budget in product(pruners, layers, budgets):
            if layer is None or pruner == only:
                jobs.append(Job(name, folder, pruner, budget, layer))
    return jobs


def _work(
    base: Path, jobs: list[Job], dtype: str, number: int, first: int, place: int
) -> list[list[bool]]:
    """Do all jobs on one share of the questions."""
    questions = make_questions(base, number, first)
    rows = []
    for job in tqdm(jobs, desc=f"process {place}", position=place):
        model = TwigModel.from_pretrained(base, twig=job.folder, dtype=dtype)
        rows.append(exact_matches(model, questions, job.method))
    return rows


def measure(
    base: Path,
    twigs: dict[str, str],
    *,
    questions: int,
    budgets: Sequence[float],
    workers: int,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Answer the questions by every twig, pruner and budget.

    Args:
        base: Folder of the base.
        twigs: Folders of twigs by name, as :func:`jobs_of` takes them; random pruning uses the
            first one's exit layer.
        questions: Number of questions.
        budgets: Shares of the visual tokens.
        workers: Processes that share the questions.
        dtype: Precision of all that runs, the unpruned base too.

    Returns:
        ``conditions``: machine, versions and precision; ``kinds``: kind of every question;
        ``rows``: per job its name, budget, exact match per question (0 or 1).
    """
    jobs = jobs_of(twigs, budgets)
    shares = [questions // workers + (i < questions % workers) for i in range(workers)]
    starts = [FIRST + 100_000 * i for i in range(workers)]
    tasks = [(base, jobs, dtype, shares[place], starts[place], place) for place in range(workers)]
    if workers == 1:
        answered = [_work(*tasks[0])]
    else:
        pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )
        with pool:
            answered = [part.result() for part in [pool.submit(_work, *task) for task in tasks]]
    kinds = [
        turn.kind
        for share, first in zip(shares, starts, strict=True)
        for _, turn in islice(turns(first), share)
    ]
    rows = []
    for number, job in enumerate(jobs):
        right = [int(found) for part in answered for found in part[number]]
        rows.append({"name": job.name, "budget": job.budget, "right": right})
    conditions = {"processor": processor_name(), "dtype": dtype, **versions()}
    return {"conditions": conditions, "kinds": kinds, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """Put what :func:`measure` found into a Markdown table: exact match, then relative accuracy."""
    whole = next(row["right"] for row in found["rows"] if row["budget"] is None)
    budgets = sorted({row["budget"] for row in found["rows"] if row["budget"] is not None})
    names = list(dict.fromkeys(row["name"] for row in found["rows"] if row["budget"] is not None))
    by_place = {(row["name"], row["budget"]): row["right"] for row in found["rows"]}
    cells = [
        [name, *(str(relative_accuracy(by_place[name, budget], whole)) for budget in budgets)]
        for name in names
    ]
    share = sum(whole) / len(whole)
    header = ["twig, pruner", *(f"{budget:.3f} of M" for budget in budgets)]
    return (
        f"{len(whole)} questions; the unpruned base answers {100 * share:.1f}% exactly. Relative "
        "accuracy, with 95% intervals of a paired bootstrap.\n\n" + markdown_table(header, cells)
    )


def kinds_table(found: dict[str, Any], names: Sequence[str], budget: float) -> str:
    """Exact match per kind of question, unpruned and of some ways at one budget."""
    rows = {
        row["name"]: row["right"]
        for row in found["rows"]
        if row["budget"] in (None, budget) and row["name"] in (UNPRUNED, *names)
    }
    cells = []
    for kind in KINDS:
        places = [i for i, other in enumerate(found["kinds"]) if other == kind]
        if places:
            shares = [sum(right[i] for i in places) / len(places) for right in rows.values()]
            cells.append([kind, str(len(places)), *(f"{100 * share:.1f}" for share in shares)])
    return markdown_table(["kind", "questions", *rows], cells)


def main() -> None:
    """Measure the twigs named on the command line and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description="Measure the demo's accuracy under pruning.")
    parser.add_argument("--base", type=Path, default=WEIGHTS / "base")
    parser.add_argument(
        "--twig", action="append", metavar="NAME=DIR[@PRUNER[:LAYERS]]", help="may be repeated"
    )
    parser.add_argument("--questions", type=int, default=5040)
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="precision (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="accuracy.json and accuracy.md")
    options = parser.parse_args()
    given = [item.split("=", 1) for item in options.twig or [f"shipped={WEIGHTS / 'twig'}"]]
    twigs = dict(given)
    found = measure(
        options.base,
        twigs,
        questions=options.questions,
        budgets=options.budgets,
        workers=options.workers,
        dtype=options.dtype,
    )
    text = table(found)
    last = list(dict.fromkeys(row["name"] for row in found["rows"] if row["budget"]))
    text += "\n\n" + kinds_table(found, last, options.budgets[0]) + "\n"
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "accuracy.json", json.dumps(found, separators=(",", ":")) + "\n")
    write_whole(options.out / "accuracy.md", text)
    print(text)


if __name__ == "__main__":
    main()
