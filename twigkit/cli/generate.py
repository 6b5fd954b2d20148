"""``twigkit generate``: answer a question about the user's own pictures."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from twigkit.cli.loading import add_model_arguments, load_model, processor_of
from twigkit.cli.run_file import add_run_argument
from twigkit.errors import InputError

if TYPE_CHECKING:
    from twigkit.generation.stats import GenerationStats
    from twigkit.model import TwigModel
    from twigkit.specs.run import GenerationSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    add_run_argument(parser)
    add_model_arguments(parser)
    group = parser.add_argument_group("prompt")
    group.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; may be repeated"
    )
    group.add_argument("--prompt", required=True, help="the question")
    group.add_argument(
        "--raw",
        action="store_true",
        help="take the prompt as it is, image tokens included, without the chat template",
    )
    add_generation_arguments(parser)
    add_sampling_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="(256)")
    group.add_argument("--stream", action="store_true", help="print the answer as it comes")
    group.add_argument("--json", action="store_true", help="print answer and statistics as JSON")


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how an answer is generated.

    Args:
        parser: The command's parser.
    """
    group = parser.add_argument_group("generation")
    group.add_argument(
        "--generation",
        metavar="FILE",
        help="a generation spec, such as tune-tree writes; options given beside it count more",
    )
    group.add_argument(
        "--budget",
        type=count_or_fraction,
        metavar="R",
        help="average visual tokens per layer: a count (64) or a fraction of the prompt's (0.11, "
        "1/9); without it nothing is pruned",
    )
    group.add_argument("--pruner", metavar="NAME", help="(default: ttp)")
    group.add_argument(
        "--wipe-layer",
        type=count_or_fraction,
        metavar="LAYER",
        help="layer after which no visual token is left, a count or a fraction of the depth",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="refuse a budget that the layers cannot meet, instead of meeting it as nearly as they "
        "allow",
    )
    group.add_argument(
        "--drafter", metavar="NAME", help="(default: ssd with a twig, plain without)"
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how tokens are drawn.

    Args:
        parser: The command's parser.
    """
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--sample",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="draw tokens, or take the most likely ones (default: as the base's own settings say)",
    )
    for name, kind, told in (
        ("temperature", float, "divides the logits before a token is drawn"),
        ("top-k", int, "draw from the K most likely tokens only; 0 from all"),
        ("top-p", float, "draw from the most likely tokens that have this probability together"),
        ("min-p", float, "draw no token below this share of the best one's probability"),
        ("seed", int, "the same seed gives the same answer"),
        ("repetition-penalty", float, "makes tokens less likely that are there already"),
    ):
        group.add_argument(f"--{name}", type=kind, metavar="N", help=told)


def count_or_fraction(text: str) -> int | float:
    """Read a whole number as a count, a number with a point or a ratio as a fraction.

    Args:
        text: What the user typed.

    Raises:
        argparse.ArgumentTypeError: If it is no number.
    """
    try:
        return int(text)
    except ValueError:
        pass
    try:
        above, slash, below = text.partition("/")
        return int(above) / int(below) if slash else float(text)
    except (ValueError, ArithmeticError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a count such as 64 nor a fraction such as 0.11 or 1/9"
        ) from None


def run(args: argparse.Namespace) -> int:
    """Answer the question.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        TwigkitError: If a picture, the prompt, a checkpoint or a setting cannot be used.
    """
    if args.stream and args.json:
        raise InputError("--stream and --json exclude each other; leave one out")
    from twigkit.io.processors import open_picture, prepare

    pictures = [open_picture(path) for path in args.image]
    if not args.prompt.strip():
        raise InputError("the prompt is empty; ask something with --prompt")
    chosen = chosen_settings(args)
    model = load_model(args)
    processor = processor_of(args, model)
    inputs = prepare(processor, args.prompt, pictures, raw=args.raw)
    spec = completed(chosen, model)
    output: Any = model.generate(
        **inputs,
        **spec.options(),
        tokenizer=processor.tokenizer,
        streamer=_streamer(processor) if args.stream else None,
        return_dict_in_generate=True,
    )
    new = output.sequences[0, inputs["input_ids"].shape[1] :]
    answer = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    if args.json:
        print(json.dumps(_document(answer, new.tolist(), output.stats), indent=2))
        return 0
    if not args.stream:
        print(answer)
    print(f"[{summary(output.stats)}]")
    return 0


def chosen_settings(args: argparse.Namespace, most: int = 256) -> dict[str, Any]:
    """Read the settings of the run, of the file and of the options; the latter count more.

    They are checked before a model is loaded.

    Args:
        args: The parsed options of :func:`add_generation_arguments` and
            :func:`add_sampling_arguments`, :func:`add_run_argument`, and ``max_new_tokens``.
        most: Most tokens of an answer where nothing says how many.

    Raises:
        InputError: If an option has no effect.
        SpecError: If they do not validate.
    """
    from twigkit.specs.run import GenerationSpec

    chosen: dict[str, Any] = {"max_new_tokens": most, **args.run_generation}
    if args.generation is not None:
        file = GenerationSpec.from_file(args.generation)
        chosen |= {name: getattr(file, name) for name in file.model_fields_set}
    names = ["budget", "pruner", "wipe_layer", "drafter", "max_new_tokens", "temperature"]
    names += ["top_k", "top_p", "min_p", "seed", "repetition_penalty"]
    given = {name: getattr(args, name) for name in names} | {"do_sample": args.sample}
    given["strict"] = args.strict or None
    chosen |= {name: value for name, value in given.items() if value is not None}
    drawing = ("temperature", "top_k", "top_p", "min_p", "seed")
    pruning = ("pruner", "wipe_layer", "strict")
    for idle, needed, what in (
        (drawing, chosen.get("do_sample") or None, "drawn; add --sample"),
        (pruning, chosen.get("budget"), "pruned; add --budget"),
    ):
        for name in idle if needed is None else ():
            if given[name] is not None:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} counts only where tokens are {what}")
    GenerationSpec(**chosen)
    return chosen


def completed(chosen: dict[str, Any], model: TwigModel) -> GenerationSpec:
    """Complete the settings by what depends on the model: without a twig, nothing drafts.

    Args:
        chosen: What :func:`chosen_settings` read.
        model: The model.
    """
    from twigkit.specs.run import GenerationSpec

    return GenerationSpec(**{"drafter": "plain" if model.twig is None else "ssd", **chosen})


def _streamer(processor: Any) -> Any:
    """Make what prints tokens as they come."""
    from transformers import TextStreamer

    return TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)


def _document(answer: str, tokens: list[int], stats: GenerationStats) -> dict[str, Any]:
    """Answer and statistics as plain data."""
    numbers = dataclasses.asdict(stats)
    numbers["kept_tokens"] = {str(layer): kept for layer, kept in stats.kept_tokens.items()}
    numbers["accepted_length"] = stats.accepted_length
    numbers["acceptance"] = stats.acceptance
    numbers["tokens_per_second"] = stats.tokens_per_second
    return {"answer": answer, "tokens": tokens, "stats": numbers}


def summary(stats: GenerationStats) -> str:
    """Put the statistics of one answer on a line.

    Args:
        stats: What a call for one prompt did and took.
    """
    from twigkit.bench.table import size

    visual = str(stats.visual_tokens[0])
    for layer, (kept,) in stats.kept_tokens.items():
        visual += f", {kept} after layer {layer}"
    if stats.kept_tokens:
        visual += f", {stats.visual_per_layer[0]:.4g} per layer"
    memory = size(stats.kv_bytes)
    if stats.draft_kv_bytes:
        memory += f" + {size(stats.draft_kv_bytes)} twig"
    parts = [
        f"{stats.new_tokens[0]} tokens, {stats.tokens_per_second:.1f} per second",
        f"prefill {1000 * stats.prefill_seconds:.0f} ms",
        f"decode {1000 * stats.decode_seconds:.0f} ms",
        f"accepted length {stats.accepted_length:.2f}",
        f"visual tokens: {visual}",
        f"KV {memory}",
    ]
    return " | ".join(parts)
