"""Ablations: what each choice of the method is worth, cell by cell, beside the paper's figures.

A cell is one twig, trained as the cell says, and how it prunes. What trains and measures it is
handed in; here is which cells there are, that a finished one is not measured again, and the tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twigkit.bench.table import markdown_table
from twigkit.errors import InputError
from twigkit.io.files import write_whole

EXIT, DEPTH, WIPE, BUDGET = 2, 3, 24 / 32, 1 / 9
"""The paper's K, T, Kf as a share of the depth, and least budget (arXiv 2503.14075)."""

TTP, HEAD = "ttp", "p-head"

RESULT = "sweep.json"

Measured = dict[str, Any]
"""What a cell came to: ``right``, per pruner 0 or 1 per question; ``accepted``, tokens per
verification."""


@dataclass(frozen=True)
class Cell:
    """One choice of one setting; all others are the paper's.

    Attributes:
        group: The setting.
        value: The choice, as tables show it.
        twig: Fields of the twig's spec that differ.
        objective: Weights of the losses that differ.
        share: Steps of stage 1, as a share of the others' steps.
        reinforcement: Steps of stage 2, as a share of what the sweep takes for 50 K samples; 0 for
            none.
        pruners: Specs of the pruners to answer with, by name.
        budget: Visual tokens per layer, as a share.
        paper: The paper's relative accuracy on LLaVA-1.5-7B by pruner, in per cent, where it has
            one.
    """

    group: str
    value: str
    twig: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, float] = field(default_factory=dict)
    share: float = 1.0
    reinforcement: float = 0.0
    pruners: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {TTP: {"kind": "ttp"}, HEAD: {"kind": "p-head"}}
    )
    budget: float = BUDGET
    paper: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Setting and choice; tells the cell from all others."""
        return f"{self.group}: {self.value}"

    @property
    def training(self) -> str:
        """Tells how stage 1 trains the cell's twig; cells with the same text share one."""
        twig = {"exit_layer": EXIT, "depth": DEPTH, "init": "copy", **self.twig}
        return json.dumps([twig, dict(self.objective), self.share], sort_keys=True)


def grid() -> list[Cell]:
    """Return all cells, those that the paper's Tables 4 and 5 show first.

    Source: TwigVLM and TwigVLM++, arXiv 2503.14075 v2 and v3; relative accuracy at 64 of 576.
    """
    depths = zip((1, 2, 3, 4), (93.9, 95.2, 96.0, 95.8), strict=True)
    exits = zip((1, 2, 3), (95.5, 96.0, 85.5), strict=True)
    losses = {
        "all": ({}, {TTP: 96.0, HEAD: 96.4}),
        "without the prediction loss": ({"prediction": 0.0}, {HEAD: 95.0}),
        "without the attention loss": ({"attention": 0.0}, {}),
        "without the next-token loss": ({"next_token": 0.0}, {}),
    }
    starts = {"copy": 96.0, "last": 90.4, "random": 87.2}
    wipes = {"off": (1.0, 93.1), "20": (20 / 32, 95.8), "24": (WIPE, 96.0), "28": (28 / 32, 95.1)}
    budgets = {"1/9": (1 / 9, 96.0, 96.4), "2/9": (2 / 9, 98.7, None), "1/3": (1 / 3, 99.2, None)}
    actions = {"0": (0, 96.4), "10 K": (0.2, 97.2), "20 K": (0.4, 97.6), "50 K": (1, 97.7)}
    return [
        *_scores(),
        *(Cell("losses", n, objective=off, paper=paper) for n, (off, paper) in losses.items()),
        *(Cell("T", str(n), twig={"depth": n}, paper={TTP: p}) for n, p in depths),
        *(Cell("K", str(n), twig={"exit_layer": n}, paper={TTP: p}) for n, p in exits),
        *(Cell("init", n, twig={"init": n}, paper={TTP: p}) for n, p in starts.items()),
        *(Cell("Kf", n, pruners=_wiped(k), paper={TTP: p}) for n, (k, p) in wipes.items()),
        *(
            Cell("budget", n, budget=b, paper={TTP: t} | ({} if h is None else {HEAD: h}))
            for n, (b, t, h) in budgets.items()
        ),
        *(Cell("samples of stage 1", f"{s:g}", share=s) for s in (0.25, 0.5, 1.0, 2.0)),
        *(
            Cell("samples of stage 2", n, reinforcement=s, paper={HEAD: p})
            for n, (s, p) in actions.items()
        ),
    ]  # fmt: skip


def _scores() -> list[Cell]:
    """Return the cells of Table 4a: what scores the visual tokens."""
    early = {"kind": "fastv", "layer": EXIT, "wipe_layer": WIPE}
    return [
        Cell("score", "layer K", pruners={"fastv": early | {"score_layer": EXIT}},
             paper={"fastv": 82.3}),
        Cell("score", "layer K + T", pruners={"fastv": early | {"score_layer": EXIT + DEPTH}},
             paper={"fastv": 86.2}),
        Cell("score", "the twig", paper={TTP: 96.0, HEAD: 96.4}),
    ]  # fmt: skip


def _wiped(layer: float) -> dict[str, dict[str, Any]]:
    """Let both pruners of the twig wipe after a layer, given as a share of the depth."""
    return {name: {"kind": name, "wipe_layer": layer} for name in (TTP, HEAD)}


def choose(cells: Sequence[Cell], groups: Sequence[str], limit: int | None) -> list[Cell]:
    """Take the cells of some groups, the first of them.

    Args:
        cells: All.
        groups: Settings; all if empty.
        limit: Most cells; ``None`` for all.

    Raises:
        InputError: If there is no such group.
    """
    known = list(dict.fromkeys(cell.group for cell in cells))
    if unknown := [name for name in groups if name not in known]:
        raise InputError(f"there is no sweep of {unknown[0]!r}; choose from {', '.join(known)}")
    return [cell for cell in cells if not groups or cell.group in groups][:limit]


def run_sweep(
    cells: Sequence[Cell],
    folder: Path,
    measure: Callable[[Cell | None], Measured],
    *,
    conditions: Mapping[str, str],
    size: Mapping[str, int],
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure every cell that the folder does not hold yet, and write the result after each.

    Args:
        cells: What to measure.
        folder: Where the result lies; a run that was stopped goes on from it.
        measure: Trains and measures a cell; ``None`` asks for the unpruned base.
        conditions: Machine and versions.
        size: How much is trained and asked; a result of another size is not gone on with.
        progress: Told which cell it is.

    Returns:
        What the file holds: ``conditions``, ``size``, ``unpruned`` and ``cells``.

    Raises:
        InputError: If the folder holds a sweep of another size, or something else.
    """
    path = folder / RESULT
    found = read(path) if path.exists() else {"unpruned": None, "cells": []}
    if found["cells"] and found["size"] != dict(size):
        raise InputError(
            f"{path} is a sweep of another size ({_sized(found['size'])}); name another folder, or "
            "give the same numbers"
        )
    found |= {"conditions": dict(conditions), "size": dict(size)}
    say = progress or (lambda text: None)
    if found["unpruned"] is None:
        say("the unpruned base")
        found["unpruned"] = measure(None)["right"]["unpruned"]
    done = {cell["name"] for cell in found["cells"]}
    for number, cell in enumerate(cells, 1):
        if cell.name in done:
            continue
        say(f"cell {number} of {len(cells)}, {cell.name}")
        described = {"name": cell.name, "group": cell.group, "value": cell.value}
        found["cells"].append({**described, "paper": dict(cell.paper), **measure(cell)})
        write_whole(path, json.dumps(found, separators=(",", ":")) + "\n")
    return found


def read(path: Path) -> dict[str, Any]:
    """Read the result of a sweep.

    Args:
        path: The file.

    Raises:
        InputError: If it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not {"unpruned", "cells", "size"} <= set(found):
            raise ValueError("no cells in it")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no result of a sweep ({error}); name another file") from error
    return found


def tables(
    found: Mapping[str, Any], relative: Callable[[Sequence[int], Sequence[int]], object]
) -> dict[str, str]:
    """Put a sweep into Markdown tables, one per setting.

    Args:
        found: What :func:`run_sweep` returned.
        relative: Puts a method's answers, beside the unpruned base's, into words.

    Returns:
        The tables by setting.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in found["cells"]:
        groups.setdefault(cell["group"], []).append(cell)
    made = {}
    for group, cells in groups.items():
        names = list(dict.fromkeys(name for cell in cells for name in cell["right"]))
        header = [group, *(text for name in names for text in (name, f"{name}, the paper"))]
        rows = []
        for cell in cells:
            pairs = [_cells(cell, name, found, relative) for name in names]
            accepted = "-" if cell["accepted"] is None else f"{cell['accepted']:.2f}"
            rows.append([cell["value"], *(text for pair in pairs for text in pair), accepted])
        made[group] = markdown_table([*header, "tokens a step"], rows)
    return made


def _cells(
    cell: Mapping[str, Any],
    name: str,
    found: Mapping[str, Any],
    relative: Callable[[Sequence[int], Sequence[int]], object],
) -> tuple[str, str]:
    """Return a pruner's relative accuracy and the paper's."""
    ours = str(relative(cell["right"][name], found["unpruned"])) if name in cell["right"] else "-"
    paper = cell["paper"].get(name)
    return ours, "-" if paper is None else f"{paper:.1f}%"


def _sized(size: Mapping[str, int]) -> str:
    """Put the size of a sweep into words."""
    return ", ".join(f"{count} {name}" for name, count in size.items())


def described(found: Mapping[str, Any]) -> str:
    """Say how large a sweep was, and how much of the grid it holds.

    Args:
        found: What :func:`run_sweep` returned.
    """
    return f"{len(found['cells'])} of {len(grid())} cells; {_sized(found['size'])}"


__all__ = ["Cell", "Measured", "choose", "described", "grid", "read", "run_sweep", "tables"]
