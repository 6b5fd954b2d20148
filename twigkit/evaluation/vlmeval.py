"""Runs VLMEvalKit on a base and a twig: ``python -m twigkit.evaluation.vlmeval``.

VLMEvalKit finds models in a dictionary of its own, ``vlmeval.config.supported_VLM``; the model is
entered there and VLMEvalKit's own run follows. That run logs what goes wrong and ends with status
0; here it ends with status 2 and the message.
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from twigkit.errors import CapabilityError, InputError, TwigkitError
from twigkit.evaluation.responder import Responder, chosen
from twigkit.io.files import write_whole
from twigkit.specs.base import read_yaml

__all__ = ["main", "make_model", "parser"]

OF_ENDPOINTS = (
    "api_mode", "base_url", "custom_prompt", "extra_body", "key", "local_media", "max_tokens",
    "repetition_penalty", "temperature", "thinker", "timeout", "top_k", "top_p", "use_vllm",
    "video_llm",
)  # fmt: skip
"""Options of VLMEvalKit's that a model of this process does not heed."""

SETTINGS = "twigkit.json"
"""File beside the answers that says how they were made."""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the options that are not VLMEvalKit's."""
    made = argparse.ArgumentParser(
        prog="python -m twigkit.evaluation.vlmeval",
        description="Run VLMEvalKit on a base and a twig.",
        epilog="All other options are VLMEvalKit's: --data, --config, --work-dir, --judge, ...",
        allow_abbrev=False,
    )
    made.add_argument("--base", required=True, metavar="DIR", help="folder or Hub id of the base")
    made.add_argument("--twig", metavar="DIR", help="folder or Hub id of the twig")
    made.add_argument("--budget", metavar="N", help="visual tokens per layer, or a fraction")
    made.add_argument("--pruner", metavar="NAME", help="name or settings, {kind: fastv, layer: 3}")
    made.add_argument("--drafter", metavar="NAME", help="name or settings (plain decoding)")
    made.add_argument(
        "--max-new-tokens", type=int, default=1024, metavar="N", help="of an answer (%(default)s)"
    )
    made.add_argument("--dtype", default="auto", help="precision (%(default)s)")
    made.add_argument("--device", help="such as cuda:0; auto spreads over all")
    made.add_argument(
        "--model",
        default="twigkit",
        metavar="NAME",
        help="name of folder, files and rows, one for each choice of settings (%(default)s)",
    )
    return made


def conversation(message: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Turn a message of VLMEvalKit's into turns with placeholders, and the pictures' files.

    Args:
        message: Parts with ``type``, ``value`` and, if another than the user says it, ``role``.

    Returns:
        The turns as :meth:`Responder.answer` takes them, and the files in their order.

    Raises:
        CapabilityError: If a part is neither text nor a picture.
    """
    turns, pictures = [], []
    for role, parts in groupby(message, key=lambda part: part.get("role", "user")):
        content: list[dict[str, str]] = []
        for part in parts:
            if part["type"] == "text":
                content.append({"type": "text", "text": part["value"]})
            elif part["type"] == "image":
                content.append({"type": "image"})
                pictures.append(part["value"])
            else:
                raise CapabilityError(
                    f"twigkit shows VLMEvalKit's models no {part['type']}; choose data without it"
                )
        turns.append({"role": role, "content": content})
    return turns, pictures


def make_model(responder: Responder, max_new_tokens: int) -> Any:
    """Make the model that VLMEvalKit asks.

    Args:
        responder: Base, twig and settings.
        max_new_tokens: Most tokens of an answer.

    Returns:
        An object of a class derived from ``vlmeval.vlm.base.BaseModel``.
    """
    from vlmeval.vlm.base import BaseModel

    class TwigkitModel(BaseModel):  # type: ignore[misc] # VLMEvalKit has no types
        """Answers one message at a time; what twigkit refuses is raised."""

        @property
        def chat_inner(self) -> Any:
            """Refuse conversations: VLMEvalKit would take an error in one for the answer."""
            raise CapabilityError(
                "twigkit answers no tasks of several turns in VLMEvalKit; choose other data"
            )

        def generate_inner(self, message: Any, dataset: str | None = None) -> str:
            """Answer one message.

            Args:
                message: Its parts.
                dataset: Name of the data; without effect.

            Raises:
                TwigkitError: If the model cannot answer as asked.
            """
            turns, pictures = conversation(message)
            text, _ = responder.answer(
                turns, pictures, max_new_tokens=max_new_tokens, do_sample=False
            )
            return text

    return TwigkitModel()


def claim(folder: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Note how the answers in a folder are made.

    VLMEvalKit takes the answers that it finds there for this run's, with ``--reuse`` and without.

    Args:
        folder: Where they go.
        name: Name of the model, with which their files begin.
        settings: All that decides what they are.

    Raises:
        InputError: If answers by other settings lie there.
    """
    file = folder / SETTINGS
    there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    answers = [*folder.glob("*.pkl"), *folder.glob(f"{glob.escape(name)}_*")]
    if answers and there != settings:
        raise InputError(
            f"{folder} holds answers by other settings, which VLMEvalKit would take for these; "
            "give another folder with --work-dir, or another name with --model"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(settings, indent=2) + "\n")


def check_config(file: str, name: str) -> None:
    """Check that a file for VLMEvalKit's ``--config`` names this model alone.

    Args:
        file: The file.
        name: Name of the model.

    Raises:
        InputError: If it cannot be read, or names another model or settings.
    """
    try:
        models = json.loads(Path(file).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'--config {file} cannot be read: {error}; expected {{"model": ..., "data": ...}}'
        ) from None
    if models != {name: {}}:
        raise InputError(
            f'--config {file} has the models {json.dumps(models)}; expected {{"{name}": {{}}}}, '
            "since the settings of the model are options of the command line"
        )


def check_options(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse options of VLMEvalKit's that are for models reached over the network.

    Args:
        given: The options.
        defaults: What they are if none is given.

    Raises:
        InputError: If one of them is given, which would be without effect.
    """
    names = [
        f"--{name.replace('_', '-')}" for name in OF_ENDPOINTS if given[name] != defaults[name]
    ]
    if names:
        raise InputError(
            f"{', '.join(names)} is for models that VLMEvalKit reaches over the network; leave it "
            "out, and see --help for what this one takes"
        )


def check_status(status: Mapping[str, Any], data: Sequence[str]) -> None:
    """Raise what VLMEvalKit logged.

    Args:
        status: Content of its ``status.json``.
        data: Names of the data that were asked for.

    Raises:
        InputError: If some of them were not evaluated.
    """
    found = status.get("datasets", {})
    problems = []
    for name in data:
        of = found.get(name, {})
        if "error_message" in of:
            problems.append(f"{name}: {of['error_message'] or 'no message, see the log'}")
        elif of.get("status") != "done":
            problems.append(f"{name}: not evaluated, see the log")
        elif of.get("skip_reason") == "invalid_dataset":
            problems.append(f"{name}: VLMEvalKit knows no such data, nor is its file there")
    if problems:
        raise InputError("VLMEvalKit did not evaluate " + "; ".join(problems))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the evaluation.

    Args:
        arguments: Options; ``None`` takes those of the process.

    Returns:
        The exit status: 0 if all was evaluated, 2 for an error.
    """
    own, rest = parser().parse_known_args(arguments)
    try:
        _evaluate(own, rest)
    except TwigkitError as error:
        print(f"twigkit: error: {error}", file=sys.stderr)
        return 2
    return 0


def _evaluate(own: argparse.Namespace, rest: list[str]) -> None:
    """Load the model and let VLMEvalKit run."""
    words = {name: getattr(own, name) for name in ("budget", "pruner", "drafter")}
    read: dict[str, Any] = {name: read_yaml(text) for name, text in words.items() if text}
    chosen(**read)
    if find_spec("vlmeval") is None:
        raise InputError("VLMEvalKit is not installed; install it with `pip install ms-vlmeval`")
    # Before anything is on a GPU: this shares the GPUs out among the processes of torchrun.
    from vlmeval import run
    from vlmeval.config import supported_VLM
    from vlmeval.smp import load_run_status

    responder = Responder(own.base, own.twig, **read, dtype=own.dtype, device=own.device)
    if own.model in supported_VLM:
        raise InputError(f"--model {own.model} is a model of VLMEvalKit's; give another name")
    defaults = _parse(run, [])
    from_file = any(word.split("=")[0] == "--config" for word in rest)
    given = _parse(run, rest if from_file else ["--model", own.model, *rest])
    check_options(vars(given), vars(defaults))
    if from_file:
        check_config(given.config, own.model)
    elif not given.data:
        raise InputError("no data is named; give --data NAME ... or --config FILE")
    folder = Path(given.work_dir) / own.model
    claim(folder, own.model, {name: vars(own)[name] for name in vars(own) if name != "device"})
    model = make_model(responder, own.max_new_tokens)
    supported_VLM[own.model] = lambda **_: model
    run.run_task(given)
    if Path(given.work_dir) != folder.parent:
        raise InputError(
            f"VLMEvalKit wrote to {given.work_dir}, since the variable MMEVAL_ROOT is set; unset "
            "it: it may have taken answers by other settings there for these"
        )
    check_status(load_run_status(folder), given.data)


def _parse(run: Any, words: list[str]) -> argparse.Namespace:
    """Parse VLMEvalKit's options, which it takes from the process alone."""
    sys.argv = [sys.argv[0], *words]
    given: argparse.Namespace = run.parse_args()
    return given


if __name__ == "__main__":
    sys.exit(main())
