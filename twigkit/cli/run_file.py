"""The option ``--run``: a file that says all of a run, as defaults of the other options."""

from __future__ import annotations

import argparse
from typing import Any

from twigkit.cli.loading import DEMO, NONE
from twigkit.errors import InputError


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command that has those of a model, too.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "--run",
        dest="run_file",
        metavar="FILE",
        help="a file with a run spec, which says what other options do not: base, twig, "
        "generation, runtime (`twigkit spec example` prints one)",
    )
    parser.set_defaults(run_generation={})


def defaults_of(path: str) -> dict[str, Any]:
    """Read a run as defaults of the options of a model.

    Args:
        path: The file.

    Returns:
        Defaults by the names of the parsed options; ``run_generation`` has the settings of the
        generation that the file gives.

    Raises:
        SpecError: If the file cannot be read or does not validate.
        InputError: If its twig is still to be grown.
    """
    from twigkit.specs.run import TwigSpec
    from twigkit.specs.runtime import RunSpec

    run = RunSpec.from_file(path)
    if isinstance(run.twig, TwigSpec):
        raise InputError(
            f"{path}: the twig is one to grow, and drafts of untrained twigs are never right; "
            "write it with `twigkit grow`, train it, and name its folder as twig"
        )
    base, twig = run.places
    runtime, generation = run.runtime, run.generation
    return {
        "base": base,
        "twig": NONE if twig is None and base == DEMO else twig,
        "dtype": runtime.dtype,
        "device": runtime.device_map,
        "attention": runtime.attention,
        "twig_weights": runtime.twig_weights,
        "graphs": runtime.graphs,
        "run_generation": {n: getattr(generation, n) for n in generation.model_fields_set},
    }


__all__ = ["add_run_argument", "defaults_of"]
