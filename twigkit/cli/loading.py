"""Options that name a model, and what loads it, shared by the commands that run one."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twigkit.errors import CheckpointError, InputError
from twigkit.io.files import expanded, unwritable

if TYPE_CHECKING:
    from twigkit.model import TwigModel

DEMO = "demo"
"""Stands for the model that ships with twigkit, as a base and as a twig."""

NONE = "none"
"""Stands for no twig."""

DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a base and a twig and say how to load them.

    Args:
        parser: The command's parser.
    """
    group = parser.add_argument_group("model")
    group.add_argument(
        "--base",
        default=DEMO,
        metavar="MODEL",
        help="folder or Hub id of the base model, or of a twig alone, which names its base; "
        "'demo' is the built-in one (default)",
    )
    group.add_argument(
        "--twig",
        metavar="TWIG",
        help="folder or Hub id of the twig; 'none' for none (default: the demo's twig on the "
        "built-in base, none on another)",
    )
    group.add_argument("--revision", help="revision of the base on the Hub")
    group.add_argument("--twig-revision", help="revision of the twig on the Hub")
    group.add_argument(
        "--allow-other-base",
        action="store_true",
        help="accept a twig that was grown on other weights of the same shapes",
    )
    group.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="precision (default: the checkpoint's own)"
    )
    group.add_argument(
        "--attention",
        choices=("auto", "sdpa", "flash", "flex", "eager"),
        default="auto",
        help="what computes attention (default: auto, flash-attn where it is installed and serves)",
    )
    group.add_argument(
        "--twig-weights",
        choices=("plain", "int8", "fp8"),
        default="plain",
        help="round the twig's weights to eight bits: drafts read less, answers stay the same",
    )
    group.add_argument(
        "--graphs",
        choices=("auto", "on", "off"),
        default="auto",
        help="capture prefill and steps as CUDA graphs (default: auto, on a GPU where it can be)",
    )
    group.add_argument(
        "--device",
        metavar="DEVICE",
        help="device, or 'auto' to spread over all (default: a GPU where there is one)",
    )


def load_model(args: argparse.Namespace) -> TwigModel:
    """Load the base and the twig that the options name.

    Args:
        args: The parsed options of :func:`add_model_arguments`.

    Returns:
        The model.

    Raises:
        CheckpointError: If something is missing or damaged, or the twig belongs to another base.
        CapabilityError: If no adapter serves the base.
    """
    quieten()
    from twigkit.backbone.placement import usual_device
    from twigkit.model import TwigModel

    place = args.device or usual_device()
    return TwigModel.from_pretrained(**{**load_options(args), "device_map": place})


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """Put the options into arguments of ``TwigModel.from_pretrained``, plain ones.

    Args:
        args: The parsed options of :func:`add_model_arguments`.
    """
    names = ("dtype", "revision", "twig_revision", "attention", "twig_weights", "graphs")
    return {
        **{name: getattr(args, name) for name in (*names, "allow_other_base")},
        "base": str(base_folder(args.base)),
        "twig": twig_source(args),
        "device_map": args.device,
    }


def twig_source(args: argparse.Namespace) -> str | None:
    """Return where the twig that the options name lies; ``None`` for none.

    Args:
        args: The parsed options of :func:`add_model_arguments`.
    """
    twig = args.twig
    if twig is None:
        twig = DEMO if args.base == DEMO else NONE
    return None if twig == NONE else str(demo_folder("twig")) if twig == DEMO else str(twig)


def processor_of(args: argparse.Namespace, model: TwigModel, *, pictures: bool = True) -> Any:
    """Load the processor of the base, also where ``--base`` names a twig alone.

    Args:
        args: The parsed options of :func:`add_model_arguments`.
        model: What :func:`load_model` returned.
        pictures: Whether it must take pictures; otherwise that of a text model will do.
    """
    from twigkit.io.processors import load_processor

    if args.twig is None and args.base != DEMO and model.twig is not None:
        return load_processor(model.base.name_or_path, pictures=pictures)
    return load_processor(
        base_folder(args.base),
        revision=args.revision,
        pictures=pictures,
        otherwise=model.base.name_or_path,
    )


def base_folder(base: str) -> str | Path:
    """Return where a base lies: the demo's own folder, or what was given."""
    return demo_folder("base") if base == DEMO else base


def demo_folder(part: str) -> Path:
    """Return a folder of the built-in model.

    Args:
        part: ``"base"`` or ``"twig"``.

    Raises:
        CheckpointError: If this installation does not have it.
    """
    folder = Path(str(files("twigkit.demo"))) / "weights" / part
    if not folder.is_dir():
        raise CheckpointError(
            f"this installation has no {folder}; train the built-in model with "
            "`python -m twigkit.demo.recipe`, or name models with --base and --twig"
        )
    return folder


def quieten() -> None:
    """Keep progress bars, hints and retries of the libraries below out of the terminal."""
    import logging as standard

    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.set_verbosity(standard.CRITICAL)


def writable(out: str) -> Path:
    """Check early that a folder for results can be made, so that no long run ends in an error.

    Args:
        out: Folder that the user named; it need not be there.

    Returns:
        Its path; nothing is made yet.

    Raises:
        InputError: If the path, or one above it, is a file or may not be written.
    """
    if not out:
        raise InputError("--out is empty; name a folder")
    folder = Path(expanded(out))
    made: list[Path] = []
    try:
        for path in reversed([folder.absolute(), *folder.absolute().parents]):
            if not path.exists():
                path.mkdir()
                made.append(path)
            elif not path.is_dir():
                raise InputError(f"{path} is a file; name a folder with --out")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise unwritable(folder, error) from error
    finally:
        for path in reversed(made):
            path.rmdir()
    return folder


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that write a twig.

    Args:
        parser: The command's parser.
    """
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a twig that is there already; other files in the folder stay",
    )


def free_for_twig(out: str, *, force: bool) -> None:
    """Check early that a twig may be written to a folder.

    Args:
        out: The folder; it need not be there.
        force: Whether a twig there may be replaced.

    Raises:
        CheckpointError: If the folder holds a twig that may not be replaced, or something else.
        InputError: If it cannot be read.
    """
    from twigkit.twig.checkpoint import check_free

    try:
        check_free(out, overwrite=force)
    except OSError as error:
        raise unwritable(Path(out), error) from error


def check_new_tokens(model: TwigModel, wanted: int) -> None:
    """Refuse an answer that no prompt leaves room for, before anything else generates it.

    Args:
        model: The model.
        wanted: Most tokens of an answer.

    Raises:
        InputError: If it is none, or more than the model's context.
    """
    from twigkit.backbone.context import context_length

    context = context_length(model.stack.config) or wanted
    if not 1 <= wanted < max(context, 2):
        raise InputError(
            f"--max-new-tokens is {wanted}; ask for 1 or more, and less than the {context} tokens "
            "of the model's context"
        )


def best_pruner(model: TwigModel) -> str:
    """Name the best pruner that a model can serve: by pruning head, by twig, or by base alone.

    Args:
        model: The model.
    """
    if model.twig is None:
        return "fastv"
    return "p-head" if "pruning" in model.twig.heads else "ttp"


@contextmanager
def progress() -> Iterator[Callable[[str], None] | None]:
    """Give a function that shows on the terminal what is being run; gone when it is over.

    Yields:
        The function, or ``None`` where the error stream is no terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return

    def tell(text: str) -> None:
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # what wraps is not erased
        print(f"\r\033[K{text[: width - 1]}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        tell("")
