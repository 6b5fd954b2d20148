"""``twigkit bench``: speed and memory, side by side with Hugging Face's ``generate``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from twigkit.cli import bench_case, bench_sweep
from twigkit.cli.loading import (
    DEMO,
    add_model_arguments,
    check_new_tokens,
    load_model,
    processor_of,
    progress,
    writable,
)
from twigkit.errors import CapabilityError, InputError

if TYPE_CHECKING:
    from twigkit.bench.suite import Result
    from twigkit.demo.unseen import Sample
    from twigkit.model import TwigModel

MOST = 1000
"""Rounds, prompts and threads that can be asked for."""

PARTS = {
    "sweep": (bench_sweep.OPTIONS, "is about a sweep; write `twigkit bench sweep`"),
    "preset": (
        ("random_weights", "tiny", "synthetic_acceptance", "parts"),
        "is about the shape of a preset; name one with --preset",
    ),
    "case": (bench_case.OPTIONS, "is about your own prompts; leave it out"),
}
"""Options that only a part of the benchmark has, and what is said of them elsewhere."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "part",
        nargs="?",
        choices=("sweep",),
        help="sweep: train and measure ablations on the built-in model, beside the paper's",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="say what changed from one bench.json to another; nothing is measured",
    )
    parser.add_argument(
        "--out", metavar="DIR", default="twigkit-bench", help="where the report goes (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="one round of two prompts")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--prompts",
        type=_count_or_path,
        default=4,
        metavar="N|PATH",
        help="how many built-in scenes (%(default)s); or your own prompts: a JSONL file with "
        "prompt and perhaps image, or a folder of .txt files with pictures of the same names",
    )
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed takes other pictures")
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="(%(default)s)"
    )
    parser.add_argument(
        "--control",
        type=int,
        default=0,
        metavar="N",
        help="also hold the drafter 'auto' against plain decoding and fixed drafters, on N prompts",
    )
    parser.add_argument(
        "--training",
        type=int,
        default=0,
        metavar="N",
        help="also measure what training costs, in N rounds",
    )
    _add_shape_arguments(parser)
    bench_case.add_arguments(parser)
    bench_sweep.add_arguments(parser)
    add_model_arguments(parser)


def _add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options about a preset's shape."""
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="measure the shape of a preset (`twigkit presets`) instead of a checkpoint; with "
        "--random-weights",
    )
    parser.add_argument(
        "--random-weights", action="store_true", help="draw the weights of --preset"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="with --preset: the family's tiny test model instead"
    )
    parser.add_argument(
        "--parts",
        metavar="NAMES",
        help="with --preset: some of decoding,prefill,batches,training,layers (default: all; "
        "training only with --training)",
    )
    parser.add_argument(
        "--synthetic-acceptance",
        type=float,
        metavar="TOKENS",
        help="with --preset: also time drafting, the target made to agree so that a step gains so "
        "many tokens on average; every table says synthetic",
    )


def _count_or_path(text: str) -> int | str:
    """Read a number, or else take a path."""
    return int(text) if text.lstrip("-").isdigit() else text


def run(args: argparse.Namespace) -> int:
    """Run the benchmark and write its report.

    Args:
        args: The parsed options.

    Returns:
        0, or 1 if a method's tokens were not its target's. A missed target of speed is reported and
        is no failure.

    Raises:
        TwigkitError: If an option or a checkpoint cannot be used.
    """
    if args.compare is not None:
        from twigkit.bench.change import changes

        print(changes(*map(Path, args.compare)))
        return 0
    _check_counts(args)
    part = _part(args)
    folder = writable(args.out)
    if part == "sweep":
        return bench_sweep.run_demo_sweep(args, folder)
    if part == "preset":
        from twigkit.cli.bench_shape import run_preset

        return run_preset(args, folder)
    if part == "case":
        return bench_case.run_own_case(args, folder)
    return _run_built_in(args, folder)


def _part(args: argparse.Namespace) -> str:
    """Tell which part of the benchmark is asked for; refuse options that it has no use for."""
    part = args.part or ("preset" if args.preset is not None else "")
    part = part or ("case" if bench_case.wanted(args) else "scenes")
    for other, (names, why) in PARTS.items():
        for name in names if other != part else ():
            if getattr(args, name):
                raise InputError(f"--{name.replace('_', '-')} {why}")
    if args.limit is not None and part in ("preset", "scenes"):
        raise InputError(
            "--limit takes the first of your own prompts, or of a sweep's cells; leave it out"
        )
    return str(part)


def _run_built_in(args: argparse.Namespace, folder: Path) -> int:
    """Measure the built-in scenes."""
    model = load_model(args)
    check_new_tokens(model, args.max_new_tokens)
    if model.twig is None:
        raise CapabilityError(
            "the benchmark compares with and without a twig; name one with --twig"
        )
    if args.base != DEMO:
        print(
            "twigkit: the built-in scenes are measured; name your own with --prompts or --images",
            file=sys.stderr,
        )
    import torch

    from twigkit.bench import report
    from twigkit.io.files import write_whole

    processor = processor_of(args, model)
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with progress() as tell:
            result = _measure(args, model, processor, tell)
    finally:
        torch.set_num_threads(before)
    text = report.as_markdown(result)
    write_whole(folder / "bench.json", json.dumps(report.as_data(result), indent=2) + "\n")
    write_whole(folder / "bench.md", text)
    print(text)
    print(f"Written to {folder / 'bench.json'} and {folder / 'bench.md'}.")
    return 0 if result.decoding.lossless else 1


def _check_counts(args: argparse.Namespace) -> None:
    """Refuse numbers that cannot be run."""
    for name in ("rounds", "prompts", "threads"):
        given = getattr(args, name)
        if isinstance(given, int) and not 1 <= given <= MOST:
            raise InputError(f"--{name} is {getattr(args, name)}; give 1 to {MOST}")
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit is {args.limit}; give 1 or more")
    for name, what in (("control", "prompts"), ("training", "rounds")):
        if getattr(args, name) < 0:
            given = getattr(args, name)
            raise InputError(f"--{name} is {given}; give a number of {what}, or 0 for none")


def _measure(
    args: argparse.Namespace, model: TwigModel, processor: Any, tell: Callable[[str], None] | None
) -> Result:
    """Measure what the options ask for, on scenes that no training saw."""
    from twigkit.bench import suite
    from twigkit.bench.control import compare_control
    from twigkit.bench.training import BATCH, measure_training
    from twigkit.demo.unseen import training_texts, unseen
    from twigkit.io.processors import prepare
    from twigkit.speculative.ngrams import NgramTable

    samples = unseen(2 if args.quick else args.prompts, seed=args.seed, short=0)
    with TemporaryDirectory() as scratch:
        grams = Path(scratch) / "grams.json"
        texts = training_texts(processor.tokenizer, 500 if args.quick else 5000)
        NgramTable.count(texts, order=4).save(grams)
        result = suite.run(
            model,
            [prepare(processor, s.description.question, [s.picture]) for s in samples],
            rounds=1 if args.quick else args.rounds,
            max_new_tokens=args.max_new_tokens,
            grams=str(grams),
            progress=tell,
        )
    if args.control:
        samples = unseen(args.control, seed=args.seed + 1, short=1, words=20)
        turns = [(s.picture, turn) for s in samples for turn in s.turns][: args.control]
        asked = [prepare(processor, turn.question, [picture]) for picture, turn in turns]
        options = {"max_new_tokens": args.max_new_tokens, "progress": tell}
        result = replace(result, control=compare_control(model, asked, **options))
    if args.training:
        records = [_record(s) for s in unseen(2 * BATCH, seed=args.seed + 2)]
        cost = measure_training(model, records, processor, rounds=args.training, progress=tell)
        result = replace(result, training=cost)
    return result


def _record(sample: Sample) -> dict[str, Any]:
    """Give a scene with its long question as training takes it."""
    turn = sample.description
    return {"image": sample.picture, "question": turn.question, "answer": turn.answer}
