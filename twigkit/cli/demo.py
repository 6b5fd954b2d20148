"""``twigkit demo``: the whole method on unseen pictures, in the terminal and as a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import (
    add_model_arguments,
    best_pruner,
    check_new_tokens,
    load_model,
    processor_of,
    progress,
    writable,
)
from twigkit.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "--out", metavar="DIR", default="twigkit-demo", help="where the report goes (%(default)s)"
    )
    parser.add_argument("--scenes", type=int, default=6, metavar="N", help="pictures (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed shows other pictures")
    parser.add_argument(
        "--budget",
        type=count_or_fraction,
        default=2 / 9,
        metavar="R",
        help="average visual tokens per layer, a count or a fraction (default: two ninths)",
    )
    parser.add_argument(
        "--pruner", metavar="NAME", help="(default: p-head if the twig has a head for it, else ttp)"
    )
    parser.add_argument("--drafter", default="ssd", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=160, metavar="N", help="per answer (%(default)s)"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo and write its report.

    Args:
        args: The parsed options.

    Returns:
        0, or 1 if a method's tokens were not its target's.

    Raises:
        TwigkitError: If an option or a checkpoint cannot be used.
    """
    if not 1 <= args.scenes <= 1000:
        raise InputError(f"--scenes is {args.scenes}; ask for 1 to 1000 pictures")
    folder = writable(args.out)
    model = load_model(args)
    check_new_tokens(model, args.max_new_tokens)
    from twigkit.demo import page, report, show
    from twigkit.demo.unseen import unseen
    from twigkit.io.files import write_whole

    processor = processor_of(args, model)
    samples = unseen(args.scenes, seed=args.seed)
    with progress() as tell:
        shown = show.run(
            model,
            processor,
            samples,
            budget=args.budget,
            pruner=args.pruner or best_pruner(model),
            drafter=args.drafter,
            max_new_tokens=args.max_new_tokens,
            progress=tell,
        )
    path = write_whole(folder / "report.html", report.render(shown))
    for number, sample in enumerate(samples, 1):
        write_whole(folder / f"scene-{number}.png", report.png(sample.picture))
    print(page.render(shown))
    print(f"\nReport with pictures: {Path(path).resolve()}")
    return 0 if shown.comparison.lossless else 1
