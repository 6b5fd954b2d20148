"""``twigkit chat``: several turns with a model, about pictures that are named by their paths."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twigkit.cli.generate import (
    add_generation_arguments,
    add_sampling_arguments,
    chosen_settings,
    completed,
    summary,
)
from twigkit.cli.loading import add_model_arguments, load_model, processor_of
from twigkit.cli.run_file import add_run_argument
from twigkit.errors import InputError, TwigkitError

if TYPE_CHECKING:
    from PIL.Image import Image

    from twigkit.model import TwigModel

HELP = "/image FILE adds a picture to the next question, /new begins anew, /quit ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Args:
        parser: The command's parser.
    """
    add_run_argument(parser)
    add_model_arguments(parser)
    add_generation_arguments(parser)
    add_sampling_arguments(parser)
    parser.epilog = f"In a chat: {HELP}."
    group = parser.add_argument_group("chat")
    group.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture to begin with"
    )
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="(512)")
    group.add_argument("--stats", action="store_true", help="say on stderr what an answer took")


@dataclass
class Chat:
    """A conversation.

    Attributes:
        model: Answers.
        processor: The base's.
        options: For ``generate``.
        turns: What was said, as chat templates take it.
        pictures: All pictures so far, in order.
        waiting: Pictures for the next question.
    """

    model: TwigModel
    processor: Any
    options: dict[str, Any]
    turns: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[Image] = field(default_factory=list)
    waiting: list[Image] = field(default_factory=list)

    def ask(self, question: str, streamer: Any = None) -> Any:
        """Ask and remember the answer; a question that fails is forgotten.

        Args:
            question: What the user typed.
            streamer: Where the answer goes as it comes.

        Returns:
            The statistics.

        Raises:
            TwigkitError: If the question cannot be put.
        """
        from twigkit.io.conversation import encode, render

        content = [{"type": "image"} for _ in self.waiting]
        turn = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
        turns, pictures = [*self.turns, turn], [*self.pictures, *self.waiting]
        text = render(self.processor, turns)
        inputs = encode(self.processor, text, pictures, rendered=True)
        output: Any = self.model.generate(**inputs, **self.options, streamer=streamer)
        new = output[0, inputs["input_ids"].shape[1] :]
        answer = self.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        self.turns, self.pictures, self.waiting = [*turns, said], pictures, []
        return output.stats


def run(args: argparse.Namespace) -> int:
    """Talk until the user ends it.

    Args:
        args: The parsed options.

    Returns:
        0.

    Raises:
        TwigkitError: If the model cannot be loaded or talked with.
    """
    from twigkit.io.processors import open_picture

    waiting = [open_picture(path) for path in args.image]
    chosen = chosen_settings(args, most=512)
    model = load_model(args)
    processor = processor_of(args, model)
    if not getattr(processor, "chat_template", None):
        raise InputError("the base has no chat template; use `twigkit generate --raw`")
    options = {**completed(chosen, model).options(), "tokenizer": processor.tokenizer}
    chat = Chat(model, processor, options, waiting=waiting)
    print(HELP, file=sys.stderr)
    while (line := _read()) is not None:
        try:
            if not _command(chat, line):
                _answer(chat, line, stats=args.stats)
        except TwigkitError as error:  # a wrong picture ends no conversation
            print(f"twigkit: error: {error}", file=sys.stderr)
    return 0


def _read() -> str | None:
    """Read a line; ``None`` at the end, or where the user says so."""
    prompt = "> " if sys.stdin.isatty() else ""
    try:
        line = input(prompt).strip()
    except EOFError:
        return None
    return None if line in ("/quit", "/exit") else line


def _command(chat: Chat, line: str) -> bool:
    """Do what a line that is no question says; return whether it was one."""
    from twigkit.io.processors import open_picture

    word, _, rest = line.partition(" ")
    if word == "/image":
        chat.waiting.append(open_picture(rest.strip()))
    elif word == "/new":
        chat.turns, chat.pictures, chat.waiting = [], [], []
    elif word.startswith("/"):
        raise InputError(f"there is no {word}; {HELP}")
    return word.startswith("/") or not line


def _answer(chat: Chat, question: str, *, stats: bool) -> None:
    """Print an answer as it comes."""
    from transformers import TextStreamer

    streamer = TextStreamer(chat.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    taken = chat.ask(question, streamer)
    if stats:
        print(f"[{summary(taken)}]", file=sys.stderr)
