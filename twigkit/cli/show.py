"""``twigkit show``: pictures of what happens inside."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twigkit.cli import decoding, pruning
from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import add_model_arguments, load_model, processor_of
from twigkit.errors import InputError

if TYPE_CHECKING:
    from twigkit.bench.accepted_paths import InspectedStep
    from twigkit.speculative.tree_image import StepImage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be shown.

    Args:
        parser: The command's parser.
    """
    things = parser.add_subparsers(dest="thing", required=True, metavar="THING")
    for name, module, text in (
        ("pruning", pruning, "what several pruners keep of a picture or a video"),
        ("decoding", decoding, "an answer coloured by who wrote each token"),
    ):
        module.add_arguments(things.add_parser(name, help=text))
    tree = things.add_parser("tree", help="draw the token tree of one step")
    add_model_arguments(tree)
    tree.add_argument("--prompt", required=True, help="the question")
    tree.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; may be repeated"
    )
    tree.add_argument("--drafter", default="tree-ssd", metavar="NAME", help="(tree-ssd)")
    tree.add_argument("--budget", type=count_or_fraction, metavar="R", help="average visual tokens")
    tree.add_argument("--step", type=int, default=1, metavar="N", help="which step, from 1 (1)")
    tree.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="(64)")
    tree.add_argument("--font", metavar="FILE", help="a TrueType font for other scripts than Latin")
    tree.add_argument("--out", default="tree.png", metavar="FILE", help="the picture (tree.png)")


def run(args: argparse.Namespace) -> int:
    """Write the picture of the step, and say how the whole answer's drafts fared.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        TwigkitError: If a model, a picture or an option cannot be used, or there is no such step.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(Path(args.out).suffix.lower())
    if kind is None:
        raise InputError(f"cannot write {args.out!r}; name a .png or .jpg file with --out")
    if args.thing == "pruning":
        return pruning.run(args, kind)
    if args.thing == "decoding":
        return decoding.run(args, kind)
    if args.step < 1:
        raise InputError(f"--step is {args.step}; the first one is 1")
    from twigkit.bench.accepted_paths import acceptance_line, accepted_paths, inspect_answer
    from twigkit.io.files import write_whole
    from twigkit.io.processors import open_picture, prepare
    from twigkit.speculative.tree_image import render_step

    pictures = [open_picture(path) for path in args.image]
    model = load_model(args)
    processor = processor_of(args, model)
    inputs = prepare(processor, args.prompt, pictures)
    options = {"budget": args.budget, "max_new_tokens": args.max_new_tokens}
    steps = inspect_answer(model, inputs, args.drafter, **options)
    step = describe_step(steps, args.step, processor.tokenizer, font=args.font)
    picture = io.BytesIO()
    render_step(step).save(picture, kind)
    print(f"{write_whole(args.out, picture.getvalue())}: {step.title}")
    print(f"the whole answer: {acceptance_line(accepted_paths(steps))}")
    return 0


def describe_step(
    steps: Sequence[InspectedStep], number: int, tokenizer: Any, *, font: str | None = None
) -> StepImage:
    """Describe one step of an answer for its picture.

    Args:
        steps: The steps of the answer.
        number: Which of them, from 1.
        tokenizer: Turns token ids into text.
        font: Path of a font for the picture.

    Raises:
        InputError: If the answer has fewer steps.
    """
    from twigkit.speculative.tree_image import StepImage

    if len(steps) < number:
        taken = f"{len(steps)} step{'s' * (len(steps) != 1)} of drafting"
        raise InputError(f"the answer took {taken}; choose another with --step, or a longer answer")
    step = steps[number - 1]
    drafts = step.tree.num_nodes - 1
    return StepImage(
        step.tree,
        labels=[tokenizer.decode([token]) for token in step.tree.token.tolist()],
        accepted=step.accepted,
        next_label=tokenizer.decode([step.next_token]),
        title=f"step {number}: {drafts} draft{'s' * (drafts != 1)}, {len(step.accepted)} accepted",
        font=font,
    )
