"""``twigkit eval``: tasks of the field and of your own, by budgets, pruners and drafters."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twigkit.cli.loading import NONE, add_model_arguments, load_model, processor_of, writable
from twigkit.errors import InputError

if TYPE_CHECKING:
    from twigkit.evaluation.spec import EvaluationSpec
    from twigkit.model import TwigModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("--spec", metavar="FILE", help="YAML or JSON file that says all below")
    parser.add_argument(
        "--task",
        action="append",
        metavar="NAME[:SETTING=VALUE,...]",
        help="a task, with its settings; may be repeated (default: the built-in model's world)",
    )
    parser.add_argument(
        "--budgets", nargs="+", metavar="N", help="visual tokens per layer, counts or fractions"
    )
    parser.add_argument("--pruners", nargs="+", metavar="NAME", help="each at every budget")
    parser.add_argument("--drafters", nargs="+", metavar="NAME", help="each with every pruner")
    parser.add_argument("--limit", type=int, metavar="N", help="first N questions of every task")
    parser.add_argument("--batch", type=int, metavar="N", help="questions at once (8)")
    parser.add_argument("--frames", type=int, metavar="N", help="frames of a video (8)")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="twigkit-eval",
        help="where answers and results go; an interrupted run goes on there (%(default)s)",
    )
    judge = parser.add_argument_group("judge, an OpenAI-compatible endpoint")
    judge.add_argument("--judge-url", metavar="URL", help="such as http://localhost:8000/v1")
    judge.add_argument("--judge-model", metavar="NAME", help="its model")
    judge.add_argument("--judge-key", metavar="FILE", help="file that holds its key")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the evaluation.

    Args:
        args: The parsed options.

    Raises:
        TwigkitError: If an option, a file or a checkpoint cannot be used.
    """
    spec = read(args)
    out = writable(args.out)
    judge = _judge(args, out)
    model = load_model(args)
    from twigkit.evaluation.evaluate import evaluate

    processor = processor_of(args, model)
    settings = {"base": args.base, "twig": named_twig(args, model), "dtype": args.dtype}
    evaluate(model, processor, spec, out, settings=settings, judge=judge, progress=_bar)
    print((out / "eval.md").read_text(encoding="utf-8"))
    print(f"Written to {out / 'eval.json'}, {out / 'eval.md'} and {out / 'eval.svg'}.")
    return 0


def named_twig(args: argparse.Namespace, model: TwigModel) -> str:
    """Return what a report calls the twig; one that no option names came with the base.

    Args:
        args: The parsed options.
        model: What was loaded.
    """
    return str(args.twig or (NONE if model.twig is None else args.base))


def read(args: argparse.Namespace) -> EvaluationSpec:
    """Put file and options together; options count more than the file.

    Args:
        args: The parsed options.

    Raises:
        InputError: If an option cannot be read.
        SpecError: If settings do not validate.
    """
    from twigkit.evaluation.spec import EvaluationSpec
    from twigkit.specs.base import read_yaml

    data: dict[str, Any] = {}
    if args.spec is not None:
        data = EvaluationSpec.from_file(args.spec).model_dump(mode="json")
    if args.task or not data:
        data["tasks"] = [_task(text, read_yaml) for text in args.task or ["demo"]]
    if args.budgets:
        data["budgets"] = [b if "/" in b else read_yaml(b) for b in args.budgets]
    for name in ("pruners", "drafters", "limit", "batch", "frames"):
        if getattr(args, name) is not None:
            data[name] = getattr(args, name)
    return EvaluationSpec.parse(data)


def _task(text: str, value_of: Callable[[str], Any]) -> dict[str, Any]:
    """Read ``NAME:SETTING=VALUE,...``."""
    name, colon, rest = text.partition(":")
    settings: dict[str, Any] = {"kind": name}
    for item in rest.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InputError(
                f"--task {text!r}: {item!r} is no setting; expected NAME:SETTING=VALUE,..., or "
                "give a file with --spec"
            )
        settings[key.strip()] = value_of(value) if value else ""
    return settings


def _judge(args: argparse.Namespace, out: Path) -> Any:
    """Make the judge that the options name, if any."""
    from twigkit.evaluation.judge import EndpointJudge

    if bool(args.judge_url) != bool(args.judge_model):
        raise InputError("a judge needs both --judge-url and --judge-model; give the other one too")
    if not args.judge_url:
        return None
    key = None
    if args.judge_key:
        try:
            key = Path(args.judge_key).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InputError(
                f"cannot read the key in {args.judge_key}: {error.strerror}; name a file that "
                "holds it"
            ) from error
    return EndpointJudge(args.judge_url, args.judge_model, key=key, memory=out / "judge.json")


def _bar(name: str, total: int) -> Callable[[int], None]:
    """Show a progress bar for a task."""
    from tqdm import tqdm

    bar = tqdm(total=total, desc=name, unit="answer", dynamic_ncols=True)

    def step(count: int) -> None:
        bar.update(count)
        if bar.n >= total:
            bar.close()

    return step
