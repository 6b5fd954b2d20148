"""Compares ``TwigModel.generate`` with transformers' ``generate``: families, drafters, arguments.

``python -m tests.comparison.runner`` runs all of it, some minutes; ``--family``, ``--drafter`` and
``--case`` pick some. Each call's tokens must be equal, scores and logits within rounding.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.comparison.cases import CASES, DRAFTERS, EXCEPTIONS, difference
from tests.families.conftest import VARIANTS, Family, make_family

PROMPTS = ("video batch", "uneven batch", "image batch", "batch", "image", "text-only")
"""Prompts to compare on: the first that a family takes."""


@dataclass
class Outcome:
    """What came of a comparison.

    Attributes:
        equal: Calls with equal results.
        excepted: Calls that were left out.
        problems: One line per call whose results differ, or that failed.
    """

    equal: int = 0
    excepted: int = 0
    problems: list[str] = field(default_factory=list)


def prompt_of(family: Family) -> dict[str, Any]:
    """The prompt that a family is compared on."""
    prompts = family.prompts()
    return next(prompts[name] for name in PROMPTS if name in prompts)


def compare(
    family: Family, cases: Iterable[str] = CASES, drafters: Iterable[str] = DRAFTERS
) -> Iterator[tuple[str, str | None]]:
    """Call both with each case and drafter.

    Yields:
        What was called, and what differs, ``"excepted"``, or ``None``.
    """
    inputs = prompt_of(family)
    for case in cases:
        if family.name in EXCEPTIONS.get(case, ()):
            yield f"{family.name} {case}", "excepted"
            continue
        expected = _call(family.base.generate, inputs, CASES[case](inputs))
        for drafter in drafters:
            spec = {"kind": drafter, **DRAFTERS[drafter]}
            given = {**CASES[case](inputs), "drafter": spec}
            got = _call(family.model.generate, inputs, given)
            if isinstance(expected, Exception) or isinstance(got, Exception):
                differs: str | None = f"raised: {expected!r}; twigkit: {got!r}"[:300]
            else:
                differs = difference(expected, got)
            yield f"{family.name} {case} {drafter}", differs


def _call(generate: Any, inputs: dict[str, Any], given: dict[str, Any]) -> Any:
    """Call; an exception is a result, too."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return generate(**copy.deepcopy(inputs), **given)
    except Exception as error:
        return error


def main(words: list[str] | None = None) -> int:
    """Run the comparison and print what differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.comparison.runner")
    names = ["-".join(pair) for pair in VARIANTS]
    parser.add_argument("--family", action="append", choices=names)
    parser.add_argument("--drafter", action="append", choices=list(DRAFTERS))
    parser.add_argument("--case", action="append", choices=list(CASES))
    args = parser.parse_args(words)
    logging.disable(logging.WARNING)
    outcome, started = Outcome(), time.monotonic()
    for pair in VARIANTS:
        if args.family and "-".join(pair) not in args.family:
            continue
        family = make_family(*pair)
        for name, differs in compare(family, args.case or CASES, args.drafter or DRAFTERS):
            if differs is None:
                outcome.equal += 1
            elif differs == "excepted":
                outcome.excepted += len(args.drafter or DRAFTERS)
            else:
                outcome.problems.append(f"{name}: {differs}")
                print(outcome.problems[-1], flush=True)
        print(f"{family.name}: {outcome.equal} equal so far", file=sys.stderr, flush=True)
    print(
        f"{outcome.equal} calls equal, {outcome.excepted} excepted, {len(outcome.problems)} not, "
        f"in {time.monotonic() - started:.0f} s"
    )
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
