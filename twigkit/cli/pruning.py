"""``twigkit show pruning``: what several pruners keep of a picture or a video, side by side."""

from __future__ import annotations

import argparse
import io
from typing import Any

from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import add_model_arguments, load_model, processor_of
from twigkit.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Args:
        parser: The parser of ``show pruning``.
    """
    add_model_arguments(parser)
    parser.add_argument("--prompt", required=True, help="the question")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--image", metavar="FILE", help="a picture")
    given.add_argument(
        "--frames", nargs="+", metavar="FILE", help="pictures that are the frames of a video"
    )
    parser.add_argument(
        "--pruners",
        default="",
        metavar="NAMES",
        help="with commas between them (all that base and twig can serve)",
    )
    parser.add_argument(
        "--budget", type=count_or_fraction, default=1 / 9, metavar="R", help="(1/9)"
    )
    parser.add_argument(
        "--only",
        choices=("kept", "scores"),
        help="the bare picture of one pruner: what it keeps, or how it scores",
    )
    parser.add_argument("--out", default="pruning.png", metavar="FILE", help="(pruning.png)")


def run(args: argparse.Namespace, kind: str) -> int:
    """Prune one prompt by every pruner and draw what each keeps.

    Args:
        args: The parsed options.
        kind: Format of the picture, as Pillow calls it.

    Returns:
        0.

    Raises:
        TwigkitError: If a model, a picture or an option cannot be used, or the base's visual tokens
            form no grid.
    """
    from twigkit.demo.overlay import draw_heat, draw_survival
    from twigkit.demo.pruning_image import (
        prune_tokens,
        render_pruning,
        token_grids,
        usable_pruners,
    )
    from twigkit.io.files import write_whole
    from twigkit.io.processors import open_picture, prepare

    pictures = [open_picture(path) for path in args.frames or [args.image]]
    model = load_model(args)
    processor = processor_of(args, model)
    media: dict[str, Any] = {"video": pictures} if args.frames else {"pictures": pictures}
    inputs = prepare(processor, args.prompt, **media)
    asked = [name.strip() for name in args.pruners.split(",") if name.strip()]
    names = asked or [name for name in usable_pruners(model) if name != "none"]
    pruned = [prune_tokens(model, inputs, name, args.budget) for name in names]
    if not pruned:
        raise InputError("there is no pruner to show; name some with --pruners")
    grids = token_grids(model, inputs)
    file = io.BytesIO()
    if args.only:
        if len(pruned) != 1 or len(grids) != 1:
            raise InputError("--only draws one pruner on one picture; name it with --pruners")
        if args.only == "kept":
            drawn = draw_survival(pictures[0], grids[0], pruned[0].survived)
        else:
            drawn = draw_heat(pictures[0], grids[0], pruned[0].scores)
    else:
        drawn = render_pruning(pictures, grids, pruned, args.prompt)
    drawn.save(file, kind)
    print(write_whole(args.out, file.getvalue()))
    for each in pruned:
        print(
            f"{each.name}: {' > '.join(map(str, (len(each.survived), *each.cuts)))} visual tokens, "
            f"{each.average:.1f} per layer"
        )
    return 0
