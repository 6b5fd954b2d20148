"""``twigkit train``: train a twig as a file says, or go on with a run that was interrupted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twigkit.cli.loading import DEMO, demo_folder, quieten, writable
from twigkit.errors import InputError, SpecError
from twigkit.specs.base import read_yaml
from twigkit.training.spec import TrainingSpec

if TYPE_CHECKING:
    from twigkit.training.dry_run import DryRun
    from twigkit.training.trainer import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    parser.add_argument("spec", help="a .yaml or .json file; see `twigkit spec example`")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the file, such as data.workers=4; may be repeated",
    )
    parser.add_argument(
        "--allow-source",
        action="append",
        default=[],
        metavar="PACKAGE.MODULE:FACTORY",
        help="let data.source call this function, which runs its code; may be repeated",
    )
    parser.add_argument("--out", metavar="DIR", help="where the twig goes, in place of the file's")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, memory, steps and time; write nothing",
    )
    parser.add_argument(
        "--no-timing",
        action="store_true",
        help="in a dry run, read the base's configuration alone and measure nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Train, or dry_run.

    Args:
        args: The parsed options.

    Returns:
        0, or 2 after a dry run that found problems.

    Raises:
        TwigkitError: If the run cannot begin or go on; what it saved is intact.
    """
    if args.no_timing and not args.dry_run:
        raise InputError("--no-timing belongs to --dry-run; give both, or neither")
    quieten()
    spec = read(args.spec, args.set, args.out)
    if args.dry_run:
        from twigkit.training.dry_run import dry_run

        found = dry_run(spec, timing=not args.no_timing, allow_sources=args.allow_source)
        if _speaks():
            print(describe(spec, found))
            for problem in found.problems:
                print(f"twigkit: problem: {problem}", file=sys.stderr)
        return 2 if found.problems else 0
    writable(spec.out)
    from twigkit.training.trainer import train

    result = train(spec, show=sys.stderr.isatty(), allow_sources=args.allow_source)
    if _speaks():
        print(summary(result))
    return 0


def read(path: str, changes: Sequence[str] = (), out: str | None = None) -> TrainingSpec:
    """Read a training spec and change some of its fields.

    Args:
        path: The file.
        changes: Changes as ``field.of.field=value``; values are YAML.
        out: Where the twig goes, in place of the file's.

    Returns:
        The spec, with the built-in model's folders for ``demo``.

    Raises:
        InputError: If a change has no such form.
        SpecError: If file or changes do not fit.
    """
    spec = TrainingSpec.from_file(path)
    if changes or out is not None:
        data = spec.model_dump(mode="json")
        for change in changes:
            _change(data, change)
        if out is not None:
            data["out"] = out
        spec = TrainingSpec.parse(data)
    base = spec.base_source
    if spec.twig == DEMO:
        base, spec = base or DEMO, spec.replace(twig=str(demo_folder("twig")))
    return spec.replace(base=str(demo_folder("base"))) if base == DEMO else spec


def _change(data: dict[str, Any], change: str) -> None:
    """Set one field of plain data."""
    name, separator, text = change.partition("=")
    if not (name and separator):
        raise InputError(f"--set takes FIELD=VALUE, such as data.workers=4; got {change!r}")
    try:
        value = read_yaml(text)
    except SpecError as error:
        shown = change if len(change) <= 60 else f"{change[:57]}..."
        raise InputError(f"--set {shown}: {error}, or quote the value") from None
    *path, last = name.split(".")
    for key in path:
        data = data.get(key) if isinstance(data.get(key), dict) else {}  # type: ignore[assignment]
        if not data:
            raise SpecError(f"--set {change}: there is no field {key!r} with fields of its own")
    # Fields of another kind of objective or head would be refused one by one.
    if last == "kind" and data.get("kind") != value:
        data.clear()
    data[last] = value


def describe(spec: TrainingSpec, found: DryRun) -> str:
    """Put what a dry run found into lines.

    Args:
        spec: The run.
        found: What was found.
    """
    model, twig = found.model, found.model.twig
    numbers = sum(parameter.numel() for parameter in model.base.parameters())
    lines = [
        ("base", f"{spec.base or spec.base_source or spec.twig}: {model.stack.depth} layers, "
                 f"{numbers:,} parameters of {found.precision} bytes (from {found.origin})"),
        ("objective", spec.objective.kind),
    ]  # fmt: skip
    if twig is not None:
        lines.append(("twig", f"{twig.depth} layers after layer {twig.exit_layer}, heads "
                              f"{', '.join(twig.heads)}; {found.twig:,} parameters"))  # fmt: skip
    lines.append(("trained", f"{found.trained:,} parameters, in {spec.precision}"))
    lines.append(("samples", _samples(found)))
    lines.append(("batch", f"{spec.batch} samples: {found.per_step} micro-batches of "
                           f"{spec.micro_batch} on each of {_count(found.processes, 'process')} "
                           f"({found.device})"))  # fmt: skip
    last = "longest" if spec.data.group else "last"
    which = f"the {last} of a step has" if found.size_known else "at most"
    lines.append(("micro-batch", f"{which} {found.size.tokens:,} tokens with padding, "
                                 f"{found.size.visual:,} of them visual"))  # fmt: skip
    steps = "unknown" if found.steps is None else f"{found.steps:,}"
    lines.append(("steps", steps))
    lines.append(("memory", f"about {_size(sum(found.memory.values()))} per process"))
    lines += [(f"  {name}", _size(size)) for name, size in found.memory.items()]
    lines += _times(spec, found)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _samples(found: DryRun) -> str:
    if found.samples is None:
        return "unknown"
    return f"{found.samples[0]:,} to train on, {found.samples[1]:,} held out"


def _times(spec: TrainingSpec, found: DryRun) -> list[tuple[str, str]]:
    """Say how long a step and the run take."""
    seconds, timing = found.step_seconds(spec.data.workers), found.timing
    if seconds is None or timing is None:
        return [("time per step", f"unknown: {found.untimed}")]
    parts = (
        f"{timing.micro_batch:.3g} s per micro-batch, {timing.update:.3g} s for the update, "
        f"{timing.data:.3g} s per micro-batch and worker to prepare data"
    )
    lines = [("time per step", f"about {_duration(seconds)} ({parts})")]
    rate = found.samples_per_second(spec.data.workers)
    lines.append(("throughput", f"about {rate:.3g} samples a second"))
    share = found.utilisation()
    known = "peak of this device not known" if share is None else f"{share:.1%} of the peak (MFU)"
    rate_of_flops = timing.flops / timing.micro_batch / 1e12 if timing.micro_batch else 0.0
    lines.append(("arithmetic", f"{timing.flops / 1e12:.3g} TFLOP per micro-batch, "
                                f"{rate_of_flops:.3g} TFLOP/s, {known}"))  # fmt: skip
    if found.steps is not None:
        whole = _duration(seconds * found.steps)
        lines.append(("whole run", f"about {whole}, evaluations and checkpoints apart"))
    if timing.peak is not None:
        lines.append(("peak measured", _size(timing.peak)))
    return lines


def summary(result: Result) -> str:
    """Put the end of a run on a few lines.

    Args:
        result: How it ended.
    """
    begun = f", resumed after step {result.resumed_from}" if result.resumed_from else ""
    held = (
        ""
        if result.held_out is None
        else f", held-out {result.criterion_name} {result.held_out:.4g}"
    )
    return (
        f"{result.out}: a twig trained for {_count(result.steps, 'step')}{begun}{held}\n"
        f"log: {result.log}"
    )


def _speaks() -> bool:
    """Say whether this process prints; of several that run together, only the first does."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _count(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{'' if number == 1 else plural}"


def _size(count: int) -> str:
    """Bytes as people say them."""
    from twigkit.bench.table import size

    return size(count)


def _duration(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.3g} s"
