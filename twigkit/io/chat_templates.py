"""Renders a base's chat template, which the user did not write, within bounds of time and memory.

A template is a program in a sandbox: it can open no file, but run for ever or fill the memory. One
that is plain (:func:`~twigkit.io.template_check.is_plain`) cannot, and is rendered in place; any
other one in a process that is ended when it takes too long and has bounded memory.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twigkit.errors import CheckpointError
from twigkit.io.template_check import LARGEST, is_plain

SECONDS = 10.0
"""Longest that a template may take for one conversation."""

MEMORY = 1 << 30
"""Most bytes that rendering may take."""

LONGEST = 1 << 24
"""Most characters of what comes out, as JSON."""

_START = 300.0
"""Seconds in which the process must have started."""

_lock = threading.Lock()
_processes: dict[int, subprocess.Popen[bytes]] = {}
"""The process of each process that renders, by its number: a fork has its own."""


def render_chat(
    processor: Any,
    turns: Sequence[Mapping[str, Any]],
    *,
    ask: bool,
    template: str | None = None,
    seconds: float = SECONDS,
) -> str:
    """Render a conversation with a chat template.

    Args:
        processor: A processor or tokenizer.
        turns: The messages, as chat templates take them.
        ask: Whether the assistant is asked to answer.
        template: A template in place of the processor's own.
        seconds: Longest that it may take, if the template is not plain.

    Returns:
        The text.

    Raises:
        CheckpointError: If the template is too long, takes too long or too much memory, or fails in
            the process of its own.
        Exception: Whatever a plain template raises.
    """
    source = _source(processor, template)
    if len(source) > LARGEST:
        raise CheckpointError(
            f"the chat template has {len(source):,} characters, more than {LARGEST:,}"
        )
    if is_plain(source):
        options = {} if template is None else {"chat_template": template}
        text: str = processor.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=ask, **options
        )
        return text
    tokens = getattr(processor, "tokenizer", processor).special_tokens_map
    request = {
        **{
            name: token if isinstance(token, list) else str(token) for name, token in tokens.items()
        },
        "conversation": list(turns),
        "chat_template": source,
        "add_generation_prompt": ask,
    }
    with _lock:
        answer = _ask(json.dumps(request, default=repr).encode() + b"\n", seconds)
    if "text" not in answer:
        raise CheckpointError(str(answer.get("error")))
    return str(answer["text"])


def _source(processor: Any, template: str | None) -> str:
    """Return the text of the template that is used."""
    found = template or getattr(processor, "chat_template", None)
    if isinstance(found, Mapping):
        found = found.get("default")
    if found is None and hasattr(processor, "get_chat_template"):
        found = processor.get_chat_template()
    return str(found or "")


def _ask(request: bytes, seconds: float) -> dict[str, Any]:
    """Send a request to the process and read the answer; end it if there is none."""
    process = _processes.get(os.getpid())
    if process is None or process.poll() is not None:
        process = _processes[os.getpid()] = _started()
    assert process.stdin is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()
        line = _line(process, seconds)
    except (OSError, TimeoutError) as error:
        process.kill()
        process.wait()
        if isinstance(error, TimeoutError):
            raise CheckpointError(
                f"the chat template took more than {seconds:g} s, or rendered more than "
                f"{LONGEST:,} characters"
            ) from None
        raise CheckpointError("the chat template ended the process that rendered it") from error
    answer: dict[str, Any] = json.loads(line)
    return answer


def _started() -> subprocess.Popen[bytes]:
    """Start the process and wait until it is ready."""
    program = Path(__file__).with_name("template_process.py")
    process = subprocess.Popen(
        [sys.executable, "-P", str(program), str(MEMORY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        _line(process, _START)
    except (OSError, TimeoutError) as error:
        process.kill()
        process.wait()
        raise CheckpointError(
            "the process that renders chat templates did not start; is transformers installed?"
        ) from error
    return process


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Read a line of what a process says.

    Raises:
        TimeoutError: If it does not come in time, or has no end.
        OSError: If the process is over.
    """
    assert process.stdout is not None
    handle, found = process.stdout.fileno(), bytearray()
    until = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while not found.endswith(b"\n"):
            if not selector.select(max(until - time.monotonic(), 0)):
                raise TimeoutError
            piece = os.read(handle, 1 << 16)
            if not piece:
                raise OSError("the process is over")
            found += piece
            if len(found) > LONGEST:
                raise TimeoutError
    return bytes(found)


__all__ = ["LONGEST", "MEMORY", "SECONDS", "render_chat"]
