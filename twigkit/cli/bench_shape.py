"""``twigkit bench --preset``: the benchmark at a preset's shape with random weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from twigkit.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

    from twigkit.bench.shape_suite import ShapeResult

MOST_SYNTHETIC = 4.0
"""Most tokens that a step can be made to gain: those of the lowest tree, and one more."""


def run_preset(args: argparse.Namespace, folder: Path) -> int:
    """Run the benchmark of a shape and write its report after each part.

    Args:
        args: The parsed options of ``twigkit bench``.
        folder: Where the report goes.

    Returns:
        0, or 1 if a part failed or plain tokens were not those of Hugging Face's ``generate``.

    Raises:
        InputError: If an option cannot be used.
        CapabilityError: If prompts cannot be made up for the preset.
    """
    _check(args)
    import torch

    from twigkit.bench.random_model import random_model
    from twigkit.bench.shape_report import as_data, as_markdown
    from twigkit.bench.shape_suite import PARTS, run_shape
    from twigkit.cli.loading import progress, quieten
    from twigkit.io.files import write_whole

    parts = PARTS if args.parts is None else tuple(args.parts.split(","))
    if strange := [name for name in parts if name not in PARTS]:
        raise InputError(f"--parts has {strange[0]!r}; known: {', '.join(PARTS)}")
    quieten()
    device = _device(args.device)
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = half if args.dtype == "auto" else getattr(torch, args.dtype)

    def write(result: ShapeResult) -> None:
        write_whole(folder / "shape.json", json.dumps(as_data(result), indent=2) + "\n")
        write_whole(folder / "shape.md", as_markdown(result))

    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with progress() as tell:
            random = random_model(args.preset, device, dtype, tiny=args.tiny, seed=args.seed)
            result = run_shape(
                random,
                rounds=1 if args.quick else args.rounds,
                max_new_tokens=args.max_new_tokens,
                synthetic=args.synthetic_acceptance,
                training=args.training,
                parts=parts,
                progress=tell,
                written=write,
            )
    finally:
        torch.set_num_threads(before)
    print(as_markdown(result))
    print(f"Written to {folder / 'shape.json'} and {folder / 'shape.md'}.")
    lossless = result.decoding is None or result.decoding.lossless
    return 0 if lossless and not result.failed else 1


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if not args.random_weights:
        raise InputError(
            f"the preset {args.preset!r} is a shape without weights; add --random-weights, or name "
            "a checkpoint with --base"
        )
    if args.twig is not None or args.control:
        raise InputError("--preset grows a twig of its own; leave --twig and --control out")
    given = args.synthetic_acceptance
    if given is not None and not 1.0 < given <= MOST_SYNTHETIC:
        raise InputError(
            f"--synthetic-acceptance is {given:g}; give more than 1 and at most "
            f"{MOST_SYNTHETIC:g} tokens a step"
        )
    if not 1 <= args.max_new_tokens <= 100_000:
        raise InputError(f"--max-new-tokens is {args.max_new_tokens}; give 1 to 100,000")


def _device(name: str | None) -> torch.device:
    """Return the device that was named, or the accelerator if there is one."""
    import torch

    from twigkit.backbone.placement import usual_device

    if name in (None, "auto"):
        return torch.device(usual_device() or "cpu")
    try:
        device = torch.device(str(name))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {first_line(error)}; name one that is there") from None
    return device
