"""``twigkit bench sweep``: ablations on the built-in model, beside the paper's tables."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from twigkit.errors import InputError

NUMBERS = ("steps", "questions")
"""Options that change how large a sweep is."""

OPTIONS = ("sweeps", *NUMBERS)
"""Options that only a sweep has."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that only a sweep has.

    Args:
        parser: The parser of ``twigkit bench``.
    """
    group = parser.add_argument_group("sweep")
    group.add_argument(
        "--sweeps", nargs="+", default=[], metavar="NAME", help="settings to vary, such as T (all)"
    )
    group.add_argument("--steps", type=int, metavar="N", help="training steps of a cell (300)")
    group.add_argument("--questions", type=int, metavar="N", help="held-out questions (480)")


def run_demo_sweep(args: argparse.Namespace, folder: Path) -> int:
    """Train and measure the cells that the folder does not hold yet.

    Args:
        args: The parsed options of ``twigkit bench``.
        folder: Where result and twigs go; a sweep that was stopped goes on there.

    Returns:
        0.

    Raises:
        TwigkitError: If an option cannot be used, or the folder holds another sweep.
    """
    from twigkit.cli.loading import DEMO, demo_folder, progress, quieten

    if args.base != DEMO or args.twig is not None:
        raise InputError(
            "a sweep trains twigs of its own on the built-in model; leave --base and --twig out"
        )
    quieten()
    import torch

    from twigkit.bench.conditions import processor_name, versions
    from twigkit.bench.sweep import choose, described, grid, run_sweep, tables
    from twigkit.demo.recipe.ablation import QUICK, Ablation, Size
    from twigkit.evaluation.relative import relative_accuracy
    from twigkit.io.files import write_whole

    given = {name: getattr(args, name) for name in NUMBERS if getattr(args, name) is not None}
    for name, count in given.items():
        if count < 1:
            raise InputError(f"--{name} is {count}; give 1 or more")
    size = replace(QUICK if args.quick else Size(), **given)
    cells = choose(grid(), args.sweeps, args.limit)
    folder.mkdir(parents=True, exist_ok=True)
    conditions = {
        "processor": processor_name(), "threads": str(args.threads), "device": "cpu",
        "dtype": "float32, trained in bfloat16", **versions(),
    }  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with progress() as tell:
            work = Ablation(demo_folder("base"), folder / "twigs", size)
            found = run_sweep(
                cells, folder, work.measure, conditions=conditions, size=size.told(), progress=tell
            )
    finally:
        torch.set_num_threads(before)
    parts = ["# Ablations on the built-in model", f"{described(found)}."]
    parts += [text for name, text in tables(found, relative_accuracy).items()]
    page = "\n\n".join(parts) + "\n"
    write_whole(folder / "sweep.md", page)
    print(page)
    print(f"Written to {folder / 'sweep.json'} and {folder / 'sweep.md'}.")
    return 0
