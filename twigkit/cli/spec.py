"""``twigkit spec``: the schema of spec files, a check of one, and an example to start from."""

from __future__ import annotations

import argparse
import json

from twigkit.specs.base import Spec
from twigkit.specs.run import GenerationSpec, TwigSpec
from twigkit.specs.runtime import RunSpec, RuntimeSpec
from twigkit.training.spec import TrainingSpec
from twigkit.training.spec import example as training_example

SPECS: dict[str, type[Spec]] = {
    "run": RunSpec,
    "twig": TwigSpec,
    "generation": GenerationSpec,
    "runtime": RuntimeSpec,
    "training": TrainingSpec,
}
"""The specs that a file may hold."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of the command.

    Args:
        parser: The command's parser.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    schema = actions.add_parser("schema", help="print the JSON Schema, registered kinds included")
    check = actions.add_parser("check", help="validate a .yaml or .json file")
    check.add_argument("file", help="the file to validate")
    example = actions.add_parser("example", help="print a complete example with every default")
    example.add_argument("--json", action="store_true", help="print JSON instead of YAML")
    example.add_argument(
        "--of", choices=("run", "training"), default="run", help="of what (default: %(default)s)"
    )
    for action in (schema, check):
        action.add_argument(
            "--of", choices=SPECS, default="run", help="which spec (default: %(default)s)"
        )


def run(args: argparse.Namespace) -> int:
    """Carry out one action.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        SpecError: If the checked file does not validate.
    """
    if args.action == "schema":
        print(json.dumps(SPECS[args.of].json_schema(), indent=2))
    elif args.action == "check":
        SPECS[args.of].from_file(args.file)
        print(f"{args.file}: a valid {args.of} spec")
    else:
        example = training_example() if args.of == "training" else _run_example()
        print(example.to_json() if args.json else example.to_yaml(), end="")
    return 0


def _run_example() -> RunSpec:
    """Give a run to start from."""
    return RunSpec(
        base="path/to/base-model", twig="path/to/twig", generation=GenerationSpec(budget=64)
    )
