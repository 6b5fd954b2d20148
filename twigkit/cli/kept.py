"""``twigkit show kept``: the visual tokens that pruning keeps, marked on the picture."""

from __future__ import annotations

import argparse
import io

from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import add_model_arguments, base_folder, load_model
from twigkit.io.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Args:
        parser: The parser of ``show kept``.
    """
    add_model_arguments(parser)
    parser.add_argument("--prompt", required=True, help="the question")
    parser.add_argument("--image", required=True, metavar="FILE", help="a picture")
    parser.add_argument(
        "--budget", type=count_or_fraction, default=1 / 9, metavar="R", help="(1/9)"
    )
    parser.add_argument("--pruner", default="ttp", metavar="NAME", help="(ttp)")
    parser.add_argument(
        "--scores", action="store_true", help="color every token by its score instead"
    )
    parser.add_argument("--out", default="kept.png", metavar="FILE", help="the picture (kept.png)")


def run(args: argparse.Namespace, kind: str) -> int:
    """Prune one prompt and draw what was kept after the pruner's first layer.

    Args:
        args: The parsed options.
        kind: Format of the picture, as Pillow calls it.

    Returns:
        0.

    Raises:
        TwigkitError: If a model, the picture or an option cannot be used, or the base's visual
            tokens form no square.
    """
    from twigkit.bench.methods import Method, answer
    from twigkit.demo.overlay import draw_heat, draw_kept
    from twigkit.demo.show import grid_of, kept_tokens
    from twigkit.io.processors import load_processor, open_picture, prepare

    picture = open_picture(args.image)
    model = load_model(args)
    processor = load_processor(base_folder(args.base), revision=args.revision)
    inputs = prepare(processor, args.prompt, [picture])
    method = Method("kept", budget=args.budget, pruner=args.pruner)
    kept, scores = kept_tokens(model, inputs, answer(model, inputs, method, max_new_tokens=1))
    grid = grid_of(len(scores))
    drawn = draw_heat(picture, grid, scores) if args.scores else draw_kept(picture, grid, kept)
    file = io.BytesIO()
    drawn.save(file, kind)
    path = write_whole(args.out, file.getvalue())
    print(f"{path}: {len(kept)} of {len(scores)} visual tokens kept")
    return 0
