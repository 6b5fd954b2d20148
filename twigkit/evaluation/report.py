"""An evaluation as a page of Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from twigkit.bench.table import markdown_table

__all__ = ["as_markdown", "plot"]

COLORS = ("#d6286e", "#0f766e", "#b45309", "#4338ca", "#4d7c0f", "#7e22ce", "#0369a1", "#be123c")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 760, 420, 64, 24, 56, 210
_LEAST_SPAN = 0.05
"""Least difference between the ends of the axis of shares."""


def as_markdown(data: Mapping[str, Any]) -> str:
    """Write a page: RelAcc and RelSpd over all tasks, then every task.

    Args:
        data: What :func:`~twigkit.evaluation.evaluate.evaluate` found.
    """
    sizes = {"base": "size of the base", "twig": "size of the twig"}
    measured = {sizes.get(name, name): value for name, value in data["conditions"].items()}
    facts = {**data["settings"], **measured}
    parts = [
        "# Evaluation",
        "Relative accuracy (RelAcc) is the mean over the tasks of a method's score divided by the "
        "unpruned base's; relative speed (RelSpd) is generated tokens per second of prefill and "
        "decoding, divided by the unpruned base's plain decoding in the same run. Brackets hold "
        "95% intervals of a paired bootstrap over the questions.",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        "![RelAcc by budget](eval.svg)",
        "## All tasks",
        markdown_table(
            ["method", "RelAcc", "RelSpd"],
            [
                [row["method"], _interval(row["rel_acc"]), _speed(row["rel_speed"])]
                for row in data["overall"]
            ],
        ),
    ]
    for name, task in data["tasks"].items():
        parts += [f"## {name}", _about(task), _task_table(task)]
        named = [*task["rows"][0].get("parts", {})]
        if named:
            rows = [
                [row["method"], *(f"{row['parts'][part]:.1f}" for part in named)]
                for row in task["rows"]
            ]
            parts.append(markdown_table(["method", *named], rows))
    return "\n\n".join(parts) + "\n"


def _about(task: Mapping[str, Any]) -> str:
    """Say how many questions there were, and what is not official."""
    notes = [f"{task['questions']} questions"]
    if not task["all"]:
        notes.append("**unofficial**: only the first of the benchmark's questions")
    if task["unofficial"]:
        notes.append(f"**unofficial**: {task['unofficial']}")
    if task["rows"][0]["score"] is None:
        notes.append("a server scores the files in `submissions`")
    return "; ".join(notes) + "."


def _task_table(task: Mapping[str, Any]) -> str:
    """Scores, ratios and speed of one task."""
    rows = []
    for row in task["rows"]:
        value = "-" if row["score"] is None else f"{row['score']:.2f}"
        span = "-" if row["score"] is None else f"[{row['low']:.2f}, {row['high']:.2f}]"
        accepted = row["accepted_length"]
        rows.append([
            row["method"], value, span, _interval(row["relative"]), _speed(row["rel_speed"]),
            f"{row['tokens_per_second']:.1f}", "-" if accepted is None else f"{accepted:.2f}",
            f"{row['visual_per_layer']:.1f}",
        ])  # fmt: skip
    header = ["method", task["metric"], "95%", "relative", "RelSpd", "tokens/s", "accepted length",
              "visual tokens per layer"]  # fmt: skip
    return markdown_table(header, rows)


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{100 * found['value']:.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _speed(found: float | None) -> str:
    return "-" if found is None else f"{found:.2f}x"


def plot(data: Mapping[str, Any]) -> str:
    """Draw RelAcc over the budget, a line per pruner and drafter, with intervals, as SVG.

    Args:
        data: What :func:`~twigkit.evaluation.evaluate.evaluate` found.
    """
    rows = [row for row in data["overall"] if row["budget"] is not None and row["rel_acc"]]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(f"{row['pruner']}, {row['drafter']}", []).append(row)
    axes = _Axes(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Relative accuracy by budget</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *axes.drawn(),
    ]
    for number, (name, own) in enumerate(lines.items()):
        shift = 6 * (number - (len(lines) - 1) / 2)
        parts += _line(axes, name, own, number, shift)
    return "\n".join([*parts, "</svg>", ""])


class _Axes:
    """Where budgets and shares lie in the picture."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.budgets = sorted({row["budget"] for row in rows})
        self.high = float(max([1.0, *(row["rel_acc"]["high"] for row in rows)]))
        low = float(min([row["rel_acc"]["low"] for row in rows], default=0.0))
        self.low = min(low, self.high - _LEAST_SPAN)

    def x(self, budget: float) -> float:
        place = (self.budgets.index(budget) + 0.5) / len(self.budgets)
        return LEFT + (WIDTH - LEFT - RIGHT) * place

    def y(self, share: float) -> float:
        place = (self.high - share) / max(self.high - self.low, 1e-6)
        return TOP + (HEIGHT - TOP - BOTTOM) * place

    def drawn(self) -> list[str]:
        """Lines of the shares, and names of the budgets."""
        parts = []
        for step in range(5):
            share = self.low + (self.high - self.low) * step / 4
            y = self.y(share)
            parts += [
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                'stroke="#e2e5ec"/>',
                f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f}%</text>',
            ]
        for budget in self.budgets:
            parts.append(
                f'<text x="{self.x(budget):.1f}" y="{HEIGHT - 30}" text-anchor="middle">'
                f"{budget:.4g}</text>"
            )
        what = "budget: visual tokens per layer"
        return [*parts, f'<text x="{LEFT}" y="{HEIGHT - 8}">{what}</text>']


def _line(
    axes: _Axes, name: str, rows: Sequence[Mapping[str, Any]], number: int, shift: float
) -> list[str]:
    """Draw one line with its points, intervals and name."""
    color = COLORS[number % len(COLORS)]
    points = [(axes.x(row["budget"]) + shift, row["rel_acc"]) for row in rows]
    drawn = " ".join(f"{x:.1f},{axes.y(share['value']):.1f}" for x, share in points)
    parts = [f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="2"/>']
    for x, share in points:
        low, middle, high = (axes.y(share[key]) for key in ("low", "value", "high"))
        parts += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{color}"/>',
            f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="4" fill="{color}"/>',
        ]
    y = TOP + 20 * number + 10
    left = WIDTH - RIGHT + 16
    return [
        *parts,
        f'<rect x="{left}" y="{y - 8}" width="12" height="12" fill="{color}"/>',
        f'<text x="{left + 18}" y="{y + 3}">{escape(name)}</text>',
    ]
