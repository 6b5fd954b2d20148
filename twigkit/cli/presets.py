"""``twigkit presets``: the real shapes of well-known models, and what a twig on each costs."""

from __future__ import annotations

import argparse

from twigkit.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("name", nargs="?", help="show one preset in full, with a run to start from")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table of presets, or one of them.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        InputError: If there is no preset of the name.
    """
    from twigkit.cli import shapes
    from twigkit.families.sizing import all_presets, preset_shape

    presets = {name: preset for name, (preset, _) in all_presets().items()}
    if args.name is None:
        found = {name: preset_shape(preset) for name, preset in presets.items()}
        if args.json:
            print(shapes.dump({name: shapes.as_json(shape) for name, shape in found.items()}))
        else:
            rows = [shapes.row(name, shape) for name, shape in found.items()]
            print(shapes.table([shapes.COLUMNS, *rows]))
        return 0
    if args.name not in presets:
        raise InputError(f"there is no preset {args.name!r}; known: {', '.join(presets)}")
    shape = preset_shape(presets[args.name])
    print(shapes.dump(shapes.as_json(shape)) if args.json else shapes.details(shape), end="")
    return 0
