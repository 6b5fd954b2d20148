"""Every pruner on the same held-out questions: the baselines of the papers beside the twig.

``python -m twigkit.demo.recipe.baselines --out DIR`` answers the questions unpruned and by every
pruner, and by the scores that TwigVLM's Table 4a compares, and says whether the order is the
papers'. It goes on where it was stopped: at most one batch per process is lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from twigkit.bench.conditions import processor_name, versions
from twigkit.bench.methods import Method
from twigkit.bench.table import markdown_table
from twigkit.demo.questions import Turn
from twigkit.demo.recipe.accuracy import BUDGETS, FIRST, WEIGHTS, turns
from twigkit.demo.world import Scene, draw
from twigkit.errors import InputError
from twigkit.evaluation.exact import Question, exact_matches
from twigkit.evaluation.relative import difference, relative_accuracy
from twigkit.io.files import write_whole
from twigkit.io.processors import load_processor, prepare
from twigkit.model import TwigModel

BATCH = 36
"""Questions at once: three of every kind."""

UNPRUNED, TWIG, TEXT, HEAD = "unpruned", "ttp", "ttp, all rows of text", "p-head"
LAYER, LATER = "score of layer K", "score of layer K + T"

TRAINING_FREE: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "fastv": {"kind": "fastv"},
    "sparsevlm": {"kind": "sparsevlm"},
    "pyramiddrop": {"kind": "pyramiddrop"},
    "mustdrop": {"kind": "mustdrop"},
    "fastervlm": {"kind": "fastervlm"},
    "vispruner": {"kind": "fastervlm", "important": 0.5},
    "visionzip": {"kind": "visionzip"},
    "divprune": {"kind": "divprune"},
    "cdpruner": {"kind": "cdpruner"},
    "dart": {"kind": "dart"},
}
"""Pruners that need no twig, with the settings of their papers."""


@dataclass(frozen=True)
class Way:
    """One way to answer all questions.

    Attributes:
        name: What the table calls it.
        pruner: Spec of the pruner; ``None`` prunes nothing.
        budget: Share of the visual tokens.
    """

    name: str
    pruner: dict[str, Any] | None
    budget: float | None

    @property
    def key(self) -> str:
        """What its answers are kept under."""
        return json.dumps([self.pruner, self.budget], sort_keys=True)


def ways_of(
    exit_layer: int, depth: int, budgets: Sequence[float], names: Sequence[str]
) -> list[Way]:
    """List the ways to answer.

    Args:
        exit_layer: Where the twig grows, K.
        depth: Its layers, T.
        budgets: Shares of the visual tokens.
        names: Rows to measure; all if empty.

    Raises:
        InputError: If a name is none of them.
    """
    scored = {"kind": "fastv", "layer": exit_layer, "wipe_layer": 0.75}
    rows = {
        **TRAINING_FREE,
        LAYER: scored | {"score_layer": exit_layer},
        LATER: scored | {"score_layer": exit_layer + depth},
        TWIG: {"kind": "ttp"},
        TEXT: {"kind": "ttp", "rows": "text"},
        HEAD: {"kind": "p-head"},
    }
    if unknown := sorted(set(names) - set(rows)):
        raise InputError(f"there is no row {unknown[0]!r}; choose from {', '.join(rows)}")
    chosen = {name: rows[name] for name in rows if not names or name in names}
    return [
        Way(UNPRUNED, None, None),
        *(Way(name, spec, budget) for budget in budgets for name, spec in chosen.items()),
    ]


def answered(folder: Path) -> dict[tuple[str, int], list[int]]:
    """Read what is answered already: 0 or 1 per question, by way and number of the batch."""
    found = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the line that was being written
                continue
            found[record["way"], record["batch"]] = record["right"]
    return found


def batches(questions: int) -> list[range]:
    """Divide the questions."""
    return [range(start, min(start + BATCH, questions)) for start in range(0, questions, BATCH)]


def work(
    base: Path, twig: Path, folder: Path, ways: Sequence[Way], questions: int, place: int, of: int
) -> None:
    """Answer every batch that is this process's and not yet answered, way after way."""
    done, parts = answered(folder), batches(questions)
    left = {
        number: missing
        for number in range(place, len(parts), of)
        if (
            missing := [
                way for way in ways if len(done.get((way.key, number), ())) < len(parts[number])
            ]
        )
    }
    if not left:
        return
    model = TwigModel.from_pretrained(base, twig=twig, dtype="float32")
    processor = load_processor(base)
    asked = turns(FIRST)
    progress = tqdm(total=sum(map(len, left.values())), position=place, desc=f"process {place}")
    with (folder / f"answers-{place}.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that was cut off
        for number, places in enumerate(parts):
            given = list(islice(asked, len(places)))
            missing = left.get(number, [])
            part = [_question(processor, *one) for one in given] if missing else []
            for way in missing:
                method = Method(way.name, budget=way.budget, pruner=way.pruner or "ttp")
                right = exact_matches(model, part, method, batch=len(part), seed=number)
                record = {"way": way.key, "batch": number, "right": [int(one) for one in right]}
                file.write(json.dumps(record) + "\n")
                file.flush()
                progress.update()


def _question(processor: Any, scene: Scene, turn: Turn) -> Question:
    """Prepare one question about a scene."""
    tokenizer = processor.tokenizer
    answer = tokenizer(turn.answer, add_special_tokens=False).input_ids
    inputs = prepare(processor, turn.question, [draw(scene)])
    return Question(inputs, (*answer, tokenizer.eos_token_id), turn.kind)


def measure(
    base: Path,
    twig: Path,
    folder: Path,
    *,
    questions: int,
    budgets: Sequence[float],
    names: Sequence[str] = (),
    workers: int = 1,
) -> dict[str, Any]:
    """Answer the questions by every way; go on with what the folder holds.

    Args:
        base: Folder of the base.
        twig: Folder of the twig.
        folder: Where the answers are kept.
        questions: Number of questions.
        budgets: Shares of the visual tokens.
        names: Rows to measure; all if empty.
        workers: Processes.

    Returns:
        ``conditions``: machine, versions and precision; ``kinds``: kind of every question;
        ``rows``: name, budget and 0 or 1 per question of every way.

    Raises:
        InputError: If the folder holds the answers of another base or twig.
    """
    _claim(folder, base, twig)
    spec = json.loads((twig / "twig.json").read_text(encoding="utf-8"))["spec"]
    ways = ways_of(spec["exit_layer"], spec["depth"], budgets, names)
    tasks = [(base, twig, folder, ways, questions, place, workers) for place in range(workers)]
    if workers == 1:
        work(*tasks[0])
    else:
        pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )
        with pool:
            for part in [pool.submit(work, *task) for task in tasks]:
                part.result()
    done, parts = answered(folder), batches(questions)
    rows = []
    for way in ways:
        right = [
            one for number, part in enumerate(parts) for one in done[way.key, number][: len(part)]
        ]
        rows.append({"name": way.name, "budget": way.budget, "right": right})
    return {
        "conditions": {"processor": processor_name(), "dtype": "float32", **versions()},
        "kinds": [turn.kind for _, turn in islice(turns(FIRST), questions)],
        "rows": rows,
    }


def _claim(folder: Path, base: Path, twig: Path) -> None:
    """Note in the folder whose answers it holds; refuse one that holds others'."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        for name, path in (("base", base), ("twig", twig))
    }
    note = folder / "run.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != weights:
        raise InputError(f"{folder} holds answers of another base or twig; name another folder")
    write_whole(note, json.dumps(weights) + "\n")


def write(found: dict[str, Any], path: Path) -> None:
    """Write what :func:`measure` found, the answers of a way as one string of 0 and 1."""
    rows = [{**row, "right": "".join(map(str, row["right"]))} for row in found["rows"]]
    write_whole(path, json.dumps({**found, "rows": rows}, separators=(",", ":")) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read what :func:`write` wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = [{**row, "right": [int(one) for one in row["right"]]} for row in found["rows"]]
    return {**found, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """Put relative accuracies into a Markdown table."""
    by_place = {(row["name"], row["budget"]): row["right"] for row in found["rows"]}
    whole = by_place[UNPRUNED, None]
    budgets = sorted({budget for _, budget in by_place if budget is not None})
    names = list(dict.fromkeys(name for name, budget in by_place if budget is not None))
    cells = [
        [name, *(str(relative_accuracy(by_place[name, budget], whole)) for budget in budgets)]
        for name in names
    ]
    shown = [str(Fraction(budget).limit_denominator(100)) for budget in budgets]
    header = ["pruner", *(f"{budget} of M" for budget in shown)]
    return markdown_table(header, cells)


def verdicts(found: dict[str, Any]) -> list[str]:
    """Say, at the smallest budget, which of the papers' orders hold, and by how much."""
    budget = min(row["budget"] for row in found["rows"] if row["budget"] is not None)
    right = {row["name"]: row["right"] for row in found["rows"] if row["budget"] == budget}
    pairs = [(HEAD, TWIG), *((TWIG, name) for name in TRAINING_FREE), (TWIG, LATER), (LATER, LAYER)]
    lines = []
    for better, worse in pairs:
        if better in right and worse in right:
            apart = difference(right[better], right[worse])
            holds = "yes" if apart.low > 0 else "no" if apart.value <= 0 else "not surely"
            lines.append(f"{holds}: {better} above {worse}, by {apart} of the questions")
    return lines


def main() -> None:
    """Measure, and write baselines.json."""
    parser = argparse.ArgumentParser(description="Measure every pruner on the demo's questions.")
    parser.add_argument("--base", type=Path, default=WEIGHTS / "base")
    parser.add_argument("--twig", type=Path, default=WEIGHTS / "twig")
    parser.add_argument("--questions", type=int, default=5040)
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS))
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="(all)")
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder; goes on with what is in it"
    )
    options = parser.parse_args()
    found = measure(
        options.base,
        options.twig,
        options.out,
        questions=options.questions,
        budgets=options.budgets,
        names=options.rows,
        workers=options.workers,
    )
    write(found, options.out / "baselines.json")
    print(table(found), *verdicts(found), sep="\n")


if __name__ == "__main__":
    main()
