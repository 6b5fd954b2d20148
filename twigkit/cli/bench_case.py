"""``twigkit bench`` on the user's own prompts and pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twigkit.cli.generate import count_or_fraction
from twigkit.cli.loading import best_pruner
from twigkit.errors import InputError

if TYPE_CHECKING:
    from twigkit.bench.case import CaseResult, Question
    from twigkit.model import TwigModel

Asked = tuple[str, tuple[str, ...]]
"""A prompt and the paths of its pictures."""

DESCRIBE = "Describe the picture."
"""Asked about pictures that come without a prompt."""

OPTIONS = ("images", "lengths", "batch_sizes", "budgets", "pruners", "drafters", "assistant")
"""Options that only the user's own case has."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the user's own case.

    Args:
        parser: The parser of ``twigkit bench``.
    """
    group = parser.add_argument_group(
        "your own case", "any of these, or a file or folder as --prompts, measures your prompts"
    )
    group.add_argument(
        "--images", nargs="+", metavar="PATH",
        help="pictures, or folders of them: where the prompts' own pictures start from, or, if the "
        "prompts name none, one picture per prompt in turn",
    )  # fmt: skip
    group.add_argument(
        "--lengths", nargs="+", type=int, metavar="N", help="most new tokens (--max-new-tokens)"
    )
    group.add_argument("--batch-sizes", nargs="+", type=int, metavar="N", help="at once (1)")
    group.add_argument(
        "--budgets", nargs="+", type=count_or_fraction, metavar="R",
        help="visual tokens per layer of the pruned rows (1/9 with a twig, else none)",
    )  # fmt: skip
    group.add_argument(
        "--pruners", nargs="+", metavar="NAME",
        help="each at every budget (p-head or ttp, as the twig has it; fastv without a twig)",
    )  # fmt: skip
    group.add_argument(
        "--drafters", nargs="+", metavar="NAME", help="each alone and with every pruner"
    )
    group.add_argument(
        "--assistant", metavar="MODEL", help="model for Hugging Face's assisted decoding"
    )
    group.add_argument(
        "--warmup-seconds", type=float, default=300.0, metavar="S",
        help="what a row may take for its first answer, compilation included (%(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--limit", type=int, metavar="N", help="first N prompts, or cells of a sweep"
    )


def wanted(args: argparse.Namespace) -> bool:
    """Whether the options are about the user's own case.

    Args:
        args: The parsed options of ``twigkit bench``.
    """
    return not isinstance(args.prompts, int) or any(getattr(args, name) for name in OPTIONS)


def run_own_case(args: argparse.Namespace, folder: Path) -> int:
    """Measure the user's prompts and write the report after every table.

    Args:
        args: The parsed options of ``twigkit bench``.
        folder: Where the report goes.

    Returns:
        0, or 1 if a row's tokens were not its target's.

    Raises:
        TwigkitError: If an option, a file or a checkpoint cannot be used.
    """
    _check(args)
    given = read_prompts(args)
    import torch

    from twigkit.bench.case import run_case
    from twigkit.bench.case_report import as_data, as_markdown, as_text
    from twigkit.cli.loading import check_new_tokens, load_model, progress
    from twigkit.io.files import write_whole

    model = load_model(args)
    question = question_of(args, model)
    for length in question.lengths:
        check_new_tokens(model, length)
    prompts, told, padding = _prepared(args, model, given)

    def write(result: CaseResult) -> None:
        write_whole(folder / "bench.json", json.dumps(as_data(result), indent=2) + "\n")
        write_whole(folder / "bench.md", as_markdown(result))

    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        with progress() as tell:
            result = run_case(
                model,
                prompts,
                question,
                rounds=1 if args.quick else args.rounds,
                told=told,
                padding=padding,
                progress=tell,
                written=write,
            )
    finally:
        torch.set_num_threads(before)
    write(result)
    print(as_text(result))
    print(f"Written to {folder / 'bench.json'} and {folder / 'bench.md'}.")
    return 0 if result.lossless else 1


def _check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, and parts of the built-in benchmark."""
    for name in ("lengths", "batch_sizes"):
        if any(number < 1 for number in getattr(args, name) or ()):
            raise InputError(f"--{name.replace('_', '-')} counts from 1")
    if args.control or args.training:
        raise InputError(
            "--control and --training measure the built-in scenes; leave them out, or leave out "
            "your prompts and pictures"
        )
    if args.warmup_seconds <= 0:
        raise InputError(f"--warmup-seconds is {args.warmup_seconds:g}; give more than 0")
    _check_rows(args)


def _check_rows(args: argparse.Namespace) -> None:
    """Refuse settings that no row could run with, and rows or tables of the same name."""
    from twigkit.bench.case import told
    from twigkit.specs.run import GenerationSpec

    for name in ("budgets", "pruners", "drafters"):
        for value in getattr(args, name) or ():
            GenerationSpec.parse({name.removesuffix("s"): value})
    for name in ("lengths", "batch_sizes", "budgets", "pruners", "drafters"):
        shown = [told(v) if name == "budgets" else str(v) for v in getattr(args, name) or ()]
        if twice := [each for number, each in enumerate(shown) if each in shown[:number]]:
            raise InputError(f"--{name.replace('_', '-')} has {twice[0]} twice; give each once")


def question_of(args: argparse.Namespace, model: TwigModel) -> Question:
    """Fill in what the options leave open.

    Args:
        args: The parsed options.
        model: Base and twig.
    """
    from twigkit.bench.case import Question

    heads = () if model.twig is None else tuple(model.twig.heads)
    drafters = ["prompt-lookup"]
    if heads:
        drafters = ["ssd", "tree-ssd", *(["medusa-tree"] if "medusa" in heads else []), *drafters,
                    "auto"]  # fmt: skip
    visual = bool(model.stack.visual_ids)
    budgets = args.budgets if args.budgets is not None else [1 / 9] if heads and visual else []
    return Question(
        lengths=args.lengths or [args.max_new_tokens],
        sizes=args.batch_sizes or [1],
        budgets=[budget for budget in budgets if budget is not None],
        pruners=args.pruners or [best_pruner(model)],
        drafters=args.drafters or drafters,
        assistant=args.assistant or "",
        warmup_seconds=args.warmup_seconds,
    )


def read_prompts(args: argparse.Namespace) -> list[Asked]:
    """Read prompts and the paths of their pictures; none stands for the built-in scenes.

    Args:
        args: The parsed options.

    Raises:
        InputError: If a file or folder cannot be used, or there is nothing in it.
    """
    pictures = [path for given in args.images or () for path in _pictures(Path(given))]
    if isinstance(args.prompts, int):
        found: list[Asked] = [(DESCRIBE, (path,)) for path in pictures]
        return found[: args.limit or args.prompts]
    source = Path(args.prompts).expanduser()
    if not source.exists():
        raise InputError(
            f"--prompts is {args.prompts!r}, which is neither a number nor a file or folder; name "
            "a JSONL file, or a folder of .txt files with pictures of the same names"
        )
    asked = _folder(source) if source.is_dir() else _file(source, args.images)
    if not asked:
        raise InputError(f"{source} holds no prompts; put .txt files or a JSONL file there")
    if pictures and not any(found for _, found in asked):
        count = max(len(asked), len(pictures))
        asked = [(asked[n % len(asked)][0], (pictures[n % len(pictures)],)) for n in range(count)]
    return asked[: args.limit]


def _pictures(path: Path) -> list[str]:
    """List a picture, or the pictures of a folder."""
    path = path.expanduser()
    if not path.exists():
        raise InputError(f"--images: there is no {path}; name pictures or folders of them")
    if not path.is_dir():
        return [str(path)]
    return [str(each) for each in sorted(path.iterdir()) if each.suffix.lower() in PICTURES]


def _folder(folder: Path) -> list[Asked]:
    """Read the JSONL files of a folder, or its texts, each with the picture of the same name."""
    if lines := sorted(folder.glob("*.jsonl")):
        return [asked for path in lines for asked in _file(path, None)]
    asked = []
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        beside = [path.with_suffix(end) for end in PICTURES if path.with_suffix(end).exists()]
        asked.append((text, tuple(map(str, beside))))
    return asked


def _file(path: Path, images: Sequence[str] | None) -> list[Asked]:
    """Read a JSONL or parquet file as ``twigkit map`` does; pictures may start from --images."""
    from twigkit.bulk.records import read_records

    roots = [Path(each).expanduser() for each in images or () if Path(each).expanduser().is_dir()]

    def place(found: str) -> str:
        given = Path(found)
        if given.exists():
            return found
        inside = given.relative_to(path.parent)
        return next((str(r / inside) for r in roots if (r / inside).exists()), found)

    return [(record.prompt, tuple(map(place, record.pictures))) for record in read_records(path)]


def _prepared(
    args: argparse.Namespace, model: TwigModel, asked: list[Asked]
) -> tuple[list[dict[str, Any]], dict[str, str], int]:
    """Turn prompts into what the model takes, on its device; say where they are from."""
    from twigkit.cli.loading import processor_of
    from twigkit.demo.unseen import unseen
    from twigkit.io.processors import open_picture, prepare

    pictures = not asked or any(found for _, found in asked)
    processor = processor_of(args, model, pictures=pictures)
    told = {"from": "your prompts"}
    if asked:
        given = [(text, [open_picture(path) for path in found]) for text, found in asked]
    else:
        count = 2 if args.quick else args.prompts
        samples = unseen(count, seed=args.seed, short=0)
        given = [(sample.description.question, [sample.picture]) for sample in samples]
        told = {"from": "descriptions of built-in scenes, because no prompts were named"}
    made = [prepare(processor, text, found) for text, found in given]
    placed = [
        {
            key: value.to(model.device, model.dtype)
            if value.is_floating_point()
            else value.to(model.device)
            for key, value in one.items()
        }
        for one in made
    ]
    padding = getattr(processor, "tokenizer", processor).pad_token_id
    return placed, told, int(padding or 0)
