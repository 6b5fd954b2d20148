"""Writes every measured figure of README and docs from the JSON files of docs/results.

``make results`` writes docs/results.md, docs/choosing.md, the table of README.md and
docs/images/speed.svg; a test writes them again and compares. The files come from these commands,
with ``--out docs/results``:

- ``accuracy.json``: ``python -m twigkit.demo.recipe.accuracy``
- ``acceptance.json``: ``python -m twigkit.demo.recipe.acceptance``
- ``bench.json``: ``twigkit bench``
- ``reading.json``: ``python -m twigkit.demo.recipe.reading``
- ``language.json``, if it is there: ``python -m twigkit.demo.language``
- ``next-token.jsonl``, ``distil.jsonl``, ``reinforce.jsonl``, if they are there: the logs
  ``training/log.jsonl`` of the twig's stages
- ``baselines.json``, if it is there: ``python -m twigkit.demo.recipe.baselines``
- ``sweep.json``, if it is there: ``twigkit bench sweep``
- ``trials.json``: figures of single trials and of papers, kept by hand

The base's own figures lie beside its weights, where ``python -m twigkit.demo.recipe.evaluate`` puts
them. Run from the root of a checkout with ``python -m docs.scripts.results``.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from docs.scripts.gpu_tables import values_of
from docs.scripts.pictures import DOCS, IMAGES, bars
from twigkit.bench.sweep import described, tables
from twigkit.bench.table import markdown_table, size
from twigkit.demo.language.__main__ import table as language_table
from twigkit.demo.recipe import baselines
from twigkit.demo.recipe.acceptance import Tally
from twigkit.demo.recipe.accuracy import UNPRUNED, kinds_table
from twigkit.demo.recipe.twig import TEACHER
from twigkit.evaluation.relative import difference, relative_accuracy
from twigkit.training.loop.run_log import read_lines

FOLDER = DOCS / "results"
PAGE = DOCS / "results.md"
TEMPLATE = DOCS / "scripts" / "results.md.jinja"
GUIDE = DOCS / "choosing.md"
GUIDE_TEMPLATE = DOCS / "scripts" / "choosing.md.jinja"
README = DOCS.parent / "README.md"
BASE = DOCS.parent / "twigkit" / "demo" / "weights" / "base" / "figures.json"
READ_LAYERS = (0, 1, 2, 3, 4, 5, 6, 8, 11, 14, 16, 19, 24)
STAGES = ("next-token", "distil", "reinforce")
REGION = re.compile(r"(<!-- figures: (\w+), by make results -->\n).*?(\n<!-- end -->)", re.DOTALL)

DYNAMIC, PLAIN, SSD, BOTH = "Hugging Face, dynamic cache", "twigkit plain", "SSD", "TTP + SSD"
LONG = "SSD, long path"

Data = dict[str, Any]


def load(folder: Path) -> Data:
    """Read all files.

    Args:
        folder: Where they lie.
    """
    names = ("accuracy", "acceptance", "bench", "reading", "trials")
    data: Data = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    data["base"] = json.loads(BASE.read_text())
    language = folder / "language.json"
    data["language"] = json.loads(language.read_text()) if language.exists() else None
    gpu = folder / "gpu.json"
    data["gpu"] = json.loads(gpu.read_text()) if gpu.exists() else None
    sweep = folder / "sweep.json"
    data["sweep"] = json.loads(sweep.read_text()) if sweep.exists() else None
    beside = folder / "baselines.json"
    data["baselines"] = baselines.read(beside) if beside.exists() else None
    data["logs"] = {name: read_lines(folder / f"{name}.jsonl") for name in STAGES}
    return data


def percent(share: float) -> str:
    """Put a share into words, such as ``97.8%``."""
    return f"{100 * share:.1f}%"


def conditions(data: Data) -> str:
    """Say in a line under which conditions a file was measured."""
    shown = {k: v for k, v in data["conditions"].items() if k not in ("base", "twig", "python")}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def budget_name(budget: float) -> str:
    """Name a budget by its fraction, such as ``1/9``."""
    return str(Fraction(budget).limit_denominator(100))


class Accuracy:
    """The rows of accuracy.json by name and budget."""

    def __init__(self, data: Data) -> None:
        """Sort the rows."""
        self.data = data
        named = [(row["name"], row["budget"], row["right"]) for row in data["rows"]]
        self.whole: list[int] = next(right for name, _, right in named if name == UNPRUNED)
        self.rows = {(name, budget): right for name, budget, right in named if budget is not None}
        self.budgets = sorted({budget for _, budget in self.rows})
        self.names = list(dict.fromkeys(name for name, _ in self.rows))
        self.order = sorted(self.names, key=lambda n: -sum(self.rows[n, self.budgets[0]]))

    def share(self, name: str) -> list[int]:
        """Return the answers of one way at the least budget."""
        return self.rows[name, self.budgets[0]]

    def table(self) -> str:
        """Return the relative accuracies, by budget."""
        cells = [
            [name, *(str(relative_accuracy(self.rows[name, b], self.whole)) for b in self.budgets)]
            for name in self.names
        ]
        header = ["twig, pruner", *(f"{budget_name(budget)} of M" for budget in self.budgets)]
        return markdown_table(header, cells)

    def worst(self) -> Data:
        """Find the kind of question that the best way loses most of."""
        best, found = self.share(self.order[0]), []
        for kind in dict.fromkeys(self.data["kinds"]):
            places = [i for i, other in enumerate(self.data["kinds"]) if other == kind]
            whole, pruned = (sum(r[i] for i in places) / len(places) for r in (self.whole, best))
            found.append({"kind": kind, "whole": whole, "pruned": pruned})
        return max(found, key=lambda each: each["whole"] - each["pruned"])


def method_rows(bench: Data) -> dict[str, Data]:
    """Return the decoding rows of bench.json by name, with the speed beside the first."""
    first = bench["decoding"][0]["tokens_per_second"]
    return {
        row["method"]["name"]: {**row, "speed": row["tokens_per_second"] / first}
        for row in bench["decoding"]
    }


def cache_share(rows: dict[str, Data]) -> float:
    """Return the part of the KV cache that a pruned answer has."""
    share: float = rows[BOTH]["kv_bytes"] / rows[DYNAMIC]["kv_bytes"]
    return share


def steps(acceptance: Data, kind: str) -> str:
    """Return the tokens that a step of the first drafter gives in texts of a kind."""
    return Tally(**acceptance["kinds"][kind][0]).cells[1]


def speed_table(bench: Data) -> str:
    """Return the methods with their speed, accepted length and cache."""
    cells = [
        [
            name,
            f"{row['tokens_per_second']:.1f}",
            f"{row['speed']:.2f}x",
            "-" if row["accepted_length"] is None else f"{row['accepted_length']:.2f}",
            size(row["kv_bytes"]),
            row["same_tokens_as_target"],
        ]
        for name, row in method_rows(bench).items()
    ]
    header = ["method", "tokens/s", "speed", "accepted", "KV", "same tokens as the target"]
    return markdown_table(header, cells)


def ratios_table(ratios: list[Data]) -> str:
    """Return ratios beside what they should be."""
    cells = [
        [r["name"], f"{r['value']:.3f}", _target(r), r["verdict"]] for r in ratios
    ]  # fmt: skip
    return markdown_table(["ratio", "measured", "target", "verdict"], cells)


def _target(ratio: Data) -> str:
    if ratio["target"] is None:
        return "-"
    return f"{'at most' if ratio['most'] else 'at least'} {ratio['target']:.2f}"


def ratios_of(bench: Data) -> list[Data]:
    """Return every ratio of a run, of controller and training too."""
    found = list(bench["ratios"])
    for part in ("control", "training"):
        found += bench[part]["ratios"] if bench[part] else []
    return found


def slower(rows: dict[str, Data]) -> list[str]:
    """Name the drafters of unpruned answers that do not even keep up with plain decoding."""
    return [
        f"{name} ({row['speed']:.2f}x)"
        for name, row in rows.items()
        if row["method"]["target"] == PLAIN and row["speed"] < rows[PLAIN]["speed"]
    ]


def acceptance_table(acceptance: Data) -> str:
    """Return how often drafts are accepted, by kind of text and drafter."""
    header = ["text"]
    for name in acceptance["drafters"]:
        header += [f"`{name}`: drafts accepted", "tokens a step"]
    cells = [
        [kind, *(cell for tally in tallies for cell in Tally(**tally).cells)]
        for kind, tallies in acceptance["kinds"].items()
    ]
    return markdown_table(header, cells)


def stages_table(logs: dict[str, list[Data]]) -> str:
    """Return what the twig's stages learnt, of those whose logs are there."""
    cells = []
    for name, lines in logs.items():
        told = [line for line in lines if line["event"] in ("step", "evaluation")]
        if told:
            last = next((li for li in reversed(told) if li["event"] == "evaluation"), told[-1])
            figures = {k: v for k, v in last.items() if isinstance(v, float) and k not in ("norm",)}
            shown = {**figures, **last.get("parts", {})}
            text = ", ".join(f"{key} {value:.3g}" for key, value in shown.items())
            seen = "held-out samples" if last["event"] == "evaluation" else "last steps"
            cells.append([f"`{name}`", str(told[-1]["step"]), seen, text])
    return markdown_table(["stage", "steps", "measured on", "figures"], cells) if cells else ""


def language_values(found: Data | None) -> Data:
    """Work out what the page says of a language model; nothing without the file."""
    if found is None:
        return {}
    rows = {row["method"]: row for row in found["rows"]}
    right = [r for r in found["rows"] if r["same"] == r["answers"] and _ours(r)]
    return {
        "language_table": language_table(found),
        "language_best": max(right, key=lambda row: row["speed"]),
        "language_plain": rows["plain"]["speed"],
        "language_path": rows["path"]["drafter"]["length"],
        "language_nodes": len(rows["Medusa tree"]["drafter"]["paths"]),
    }


def _ours(row: Data) -> bool:
    return not row["method"].startswith("Hugging Face")


def reading_table(reading: Data) -> str:
    """Return at which of some layers the base reads its pictures."""
    rows = {**reading["shown"], "attention to the picture": reading["visual"]}
    cells = [
        [name, *(f"{100 * shares[layer]:.0f}%" for layer in READ_LAYERS)]
        for name, shares in rows.items()
    ]
    return markdown_table(["layer, from 0", *map(str, READ_LAYERS)], cells)


def baseline_values(found: Data | None) -> Data:
    """Work out what the page says of all pruners; nothing without the file."""
    if found is None:
        return {}
    whole = next(row["right"] for row in found["rows"] if row["name"] == baselines.UNPRUNED)
    return {
        "baselines_table": baselines.table(found),
        "baselines_orders": "\n".join(f"- {line}" for line in baselines.verdicts(found)),
        "baselines_unpruned": sum(whole) / len(whole),
    }


def sweep_tables(sweep: Data | None) -> str:
    """Return the ablations, a table per setting; empty without any."""
    if sweep is None:
        return ""
    return "\n\n".join(tables(sweep, relative_accuracy).values())


def values(data: Data) -> Data:
    """Work out what the page shows."""
    bench, accuracy = data["bench"], Accuracy(data["accuracy"])
    rows = method_rows(bench)
    best, second = accuracy.order[:2]
    minutes = data["trials"]["minutes"]
    same = all(row["same_tokens_as_target"] in ("yes", "is a target") for row in rows.values())
    blind = [s for kind, s in data["base"]["shuffled"].items() if kind not in ("exists", "all")]
    prefill = [1000 * row["prefill_seconds"] for row in bench["prefill"]]
    plain, *drafting = bench["batches"]
    together = max(drafting, key=lambda row: row["tokens_per_second"])
    return {
        **data,
        "percent": percent,
        "conditions": conditions,
        "points": lambda value: f"{100 * value:.1f}",
        "times": lambda value: f"{value:.2f} times",
        "blind": sorted(blind, reverse=True),
        "minutes": ", ".join(f"{name} {took}" for name, took in minutes.items() if name != "how"),
        "teacher_layer": TEACHER["teacher_layer"],
        "reading_table": reading_table(data["reading"]),
        "stages": stages_table(data["logs"]),
        "unpruned": sum(accuracy.whole) / len(accuracy.whole),
        "accuracy_table": accuracy.table(),
        "best": {"name": best},
        "second": {"name": second},
        "best_over_second": difference(accuracy.share(best), accuracy.share(second)),
        "kinds_table": kinds_table(data["accuracy"], accuracy.names, accuracy.budgets[0]),
        "worst": accuracy.worst(),
        **baseline_values(data["baselines"]),
        "sweep_size": described(data["sweep"]) if data["sweep"] else "",
        "sweep_tables": sweep_tables(data["sweep"]),
        "acceptance_table": acceptance_table(data["acceptance"]),
        "lossless": "All methods gave the tokens of their target." if same else
        "Not every method gave the tokens of its target.",
        "speed_table": speed_table(bench),
        "expected": speed_region(data),
        "cache": f"{100 * cache_share(rows):.0f}%",
        "steps": partial(steps, data["acceptance"]),
        "long": rows[LONG],
        "together": together["method"]["name"],
        "batch_gain": together["tokens_per_second"] / plain["tokens_per_second"],
        "prefill": f"{prefill[0]:.0f}",
        "prefill_pruned": f"{prefill[1]:.0f}",
        "ratios_table": ratios_table(bench["ratios"]),
        "slower": ", ".join(slower(rows)) or "no drafter of this run",
        "missed": ", ".join(r["name"] for r in ratios_of(bench) if r["verdict"] == "missed")
        or "none of this run",
        **language_values(data["language"]),
        "control": ratios_table(bench["control"]["ratios"]) if bench["control"] else "",
        "training": ratios_table(bench["training"]["ratios"]) if bench["training"] else "",
        **(values_of(data["gpu"]) if data["gpu"] else {}),
    }  # fmt: skip


def render(data: Data, template: Path = TEMPLATE) -> str:
    """Return docs/results.md, or another page.

    Args:
        data: What :func:`load` read.
        template: The page with gaps.
    """
    room = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    return room.from_string(template.read_text()).render(values(data)).rstrip("\n") + "\n"


def speed_region(data: Data) -> str:
    """Return README's table: speed, cache, and what the answers keep."""
    rows, accuracy = method_rows(data["bench"]), Accuracy(data["accuracy"])
    best, timed = accuracy.order[0], rows[BOTH]["method"]["pruner"]
    named = [best, next(n for n in accuracy.order if n.split(", ")[1:] == [timed])]
    shares = [relative_accuracy(accuracy.share(n), accuracy.whole).value for n in named]
    kept, kept_as_timed = map(percent, shares)
    cache = cache_share(rows)
    _, pruner, *wiped = best.split(", ")
    how = f'pruner="{pruner}"' + "".join(f", wipe_layer={w.split()[-1]}" for w in wiped)
    cells = [
        ["Hugging Face's `generate`", f"{rows[DYNAMIC]['speed']:.2f}x", "100%", ""],
        ["plain decoding", f"{rows[PLAIN]['speed']:.2f}x", "100%", "the same tokens"],
        ['drafts (`drafter="ssd"`)', f"{rows[SSD]['speed']:.2f}x", "100%", "the same tokens"],
        [
            f"up to {rows[LONG]['method']['drafter']['length']} drafts a step",
            f"{rows[LONG]['speed']:.2f}x",
            "100%",
            "the same tokens",
        ],
        [
            "drafts, a ninth of the visual tokens (`budget=1/9`)",
            f"{rows[BOTH]['speed']:.2f}x",
            f"{100 * cache:.0f}%",
            f'{kept_as_timed} of the right ones as timed (`pruner="{timed}"`), {kept} with `{how}`',
        ],
    ]
    return markdown_table(["", "speed on a CPU", "cache", "answers"], cells)


def readme(text: str, data: Data) -> str:
    """Fill the regions of README.md.

    Args:
        text: README.md as it is.
        data: What :func:`load` read.
    """
    regions = {"speed": speed_region}
    return REGION.sub(lambda m: m[1] + regions[m[2]](data) + m[3], text)


def drawing(data: Data) -> str:
    """Return docs/images/speed.svg."""
    return bars({name: row["speed"] for name, row in method_rows(data["bench"]).items()})


def main() -> None:
    """Write the pages, README's table and the picture."""
    data = load(FOLDER)
    PAGE.write_text(render(data))
    GUIDE.write_text(render(data, GUIDE_TEMPLATE))
    README.write_text(readme(README.read_text(), data))
    (IMAGES / "speed.svg").write_text(drawing(data))


if __name__ == "__main__":
    main()
