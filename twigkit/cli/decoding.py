"""``twigkit show decoding``: an answer coloured by who wrote each token."""

from __future__ import annotations

import argparse
import io
from typing import Any

from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import add_model_arguments, load_model, processor_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Args:
        parser: The parser of ``show decoding``.
    """
    add_model_arguments(parser)
    parser.add_argument("--prompt", required=True, help="the question")
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; may be repeated"
    )
    parser.add_argument("--drafter", default="ssd", metavar="NAME", help="(ssd)")
    parser.add_argument("--budget", type=count_or_fraction, metavar="R", help="prunes, if given")
    parser.add_argument("--pruner", default="ttp", metavar="NAME", help="(ttp)")
    parser.add_argument("--max-new-tokens", type=int, default=160, metavar="N", help="(160)")
    parser.add_argument("--font", metavar="FILE", help="a TrueType font for other scripts")
    parser.add_argument("--out", default="decoding.png", metavar="FILE", help="(decoding.png)")


def run(args: argparse.Namespace, kind: str) -> int:
    """Answer one prompt and draw who wrote what.

    Args:
        args: The parsed options.
        kind: Format of the picture, as Pillow calls it.

    Returns:
        0.

    Raises:
        TwigkitError: If a model, a picture or an option cannot be used.
    """
    from twigkit.demo.decoding_image import render_decoding, written_tokens
    from twigkit.io.files import write_whole
    from twigkit.io.processors import open_picture, prepare

    pictures = [open_picture(path) for path in args.image]
    model = load_model(args)
    processor = processor_of(args, model)
    inputs = prepare(processor, args.prompt, pictures)
    output: Any = model.generate(
        **inputs,
        drafter=args.drafter,
        pruner=args.pruner,
        budget=args.budget,
        max_new_tokens=args.max_new_tokens,
    )
    tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
    gains = output.stats.accepted_lengths[0]
    written = written_tokens(tokens, gains, processor.tokenizer)
    title = f"{args.prompt} ({args.drafter})"
    file = io.BytesIO()
    render_decoding(written, gains, title, args.font).save(file, kind)
    drafted = sum(token.drafted for token in written)
    path = write_whole(args.out, file.getvalue())
    print(f"{path}: {drafted} of {len(written)} tokens drafted, in {len(gains)} verifications")
    return 0
