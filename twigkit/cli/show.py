"""``twigkit show``: pictures of what happens inside."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twigkit.cli import kept
from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import add_model_arguments, base_folder, load_model
from twigkit.errors import InputError

if TYPE_CHECKING:
    from twigkit.interfaces.drafter import DraftModel
    from twigkit.model import TwigModel
    from twigkit.speculative.candidates import Candidates
    from twigkit.speculative.draft_tree import DraftTree
    from twigkit.speculative.token_tree import TokenTree
    from twigkit.speculative.tree_image import StepImage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be shown.

    Args:
        parser: The command's parser.
    """
    things = parser.add_subparsers(dest="thing", required=True, metavar="THING")
    kept.add_arguments(things.add_parser("kept", help="mark the visual tokens that pruning keeps"))
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
    """Write the picture of the step.

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
    if args.thing == "kept":
        return kept.run(args, kind)
    if args.step < 1:
        raise InputError(f"--step is {args.step}; the first one is 1")
    from twigkit.io.files import write_whole
    from twigkit.io.processors import load_processor, open_picture, prepare
    from twigkit.speculative.tree_image import render_step

    pictures = [open_picture(path) for path in args.image]
    model = load_model(args)
    processor = load_processor(base_folder(args.base), revision=args.revision)
    inputs = prepare(processor, args.prompt, pictures)
    step = take_step(
        model,
        inputs,
        args.drafter,
        args.step,
        processor.tokenizer,
        font=args.font,
        budget=args.budget,
        max_new_tokens=args.max_new_tokens,
    )
    picture = io.BytesIO()
    render_step(step).save(picture, kind)
    print(f"{write_whole(args.out, picture.getvalue())}: {step.title}")
    return 0


class Recorder:
    """Any drafter, with the token tree of one step kept.

    Attributes:
        tree: What was handed to verification in the first row of that step; None before.
    """

    def __init__(self, inner: Any, step: int, label: str) -> None:
        """Wrap a drafter under its name; steps count from 1."""
        self.inner, self._left, self.label = inner, step, label
        self.tree: TokenTree | None = None

    def __getattr__(self, name: str) -> Any:
        """Be what the wrapped drafter is."""
        return getattr(self.inner, name)

    def draft(self, draft_model: DraftModel, candidates: Candidates, room: int) -> DraftTree:
        """Draft, and copy the tree of the step asked for."""
        drafted: DraftTree = self.inner.draft(draft_model, candidates, room)
        self._left -= 1
        if self._left == 0:
            from twigkit.speculative.token_tree import TokenTree

            self.tree = TokenTree.from_draft(drafted, 0).cpu()
        return drafted


def take_step(
    model: TwigModel,
    inputs: dict[str, Any],
    drafter: str,
    step: int,
    tokenizer: Any,
    *,
    font: str | None = None,
    **options: Any,
) -> StepImage:
    """Answer a prompt and describe one of the steps.

    Args:
        model: A model with a twig.
        inputs: What the processor returns for one prompt.
        drafter: Name of the drafter.
        step: Which step, from 1.
        tokenizer: Turns token ids into text.
        font: Path of a font for the picture.
        **options: More arguments of ``generate``.

    Raises:
        InputError: If the answer has fewer steps.
    """
    from twigkit.plugins.discovery import default_registry
    from twigkit.specs.run import GenerationSpec
    from twigkit.speculative.tree_image import StepImage

    spec = GenerationSpec.parse({"drafter": drafter}).drafter
    inner = default_registry().get("drafter", spec.kind).make(spec)
    recorder: Any = Recorder(inner, step, spec.kind)
    output: Any = model.generate(**inputs, drafter=recorder, **options)
    gains = output.stats.accepted_lengths[0]
    if len(gains) < step:
        taken = f"{len(gains)} step{'s' * (len(gains) != 1)} of drafting"
        raise InputError(f"the answer took {taken}; choose another with --step, or a longer answer")
    start = inputs["input_ids"].shape[1] + 1 + sum(gains[: step - 1])
    text = output[0, start : start + gains[step - 1]].tolist()
    accepted = recorder.tree.follow(text[:-1])
    drafts = recorder.tree.num_nodes - 1
    return StepImage(
        recorder.tree,
        labels=[tokenizer.decode([token]) for token in recorder.tree.token.tolist()],
        accepted=accepted,
        next_label=tokenizer.decode([text[-1]]),
        title=f"step {step}: {drafts} draft{'s' * (drafts != 1)}, {len(accepted)} accepted",
        font=font,
    )
