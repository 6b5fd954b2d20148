"""Times ways to answer held-out prompts against Hugging Face's ``generate``, call by call.

Every answer is a line of a file, so that an interrupted measurement goes on where it stopped. All
ways answer a prompt one after another before the next prompt comes, each time from another one on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from twigkit.bench.answering import answer
from twigkit.bench.methods import Answer, Inputs, Method
from twigkit.model import TwigModel

__all__ = ["BASELINE", "drafters", "methods", "summarise", "time_answers"]

BASELINE = "Hugging Face generate"

LOOKED_UP = 10
"""Tokens of a draft by prompt lookup; the default of twigkit's drafter."""


def drafters(tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Return the drafters that are compared, by the name of their row.

    Args:
        tuned: The twig's own: ``path``, ``tree``, and ``Medusa tree`` if it can look ahead.
    """
    alternatives = [tuned[name] for name in ("path", "Medusa tree") if name in tuned]
    return {
        **tuned,
        "auto": {"kind": "auto", "drafters": alternatives},
        "prompt lookup": {"kind": "prompt-lookup", "length": LOOKED_UP},
    }


def methods(chosen: Mapping[str, Any], exit_layer: int) -> list[Method]:
    """Return all ways to answer; each must give the tokens of the first.

    Args:
        chosen: What :func:`drafters` returned.
        exit_layer: Where Hugging Face's early exit leaves the base, which is where the twig grows.
    """
    theirs: dict[str, Any] = {"engine": "hugging-face", "target": BASELINE}
    return [
        Method(BASELINE, engine="hugging-face"),
        Method(
            "Hugging Face, prompt lookup", options={"prompt_lookup_num_tokens": LOOKED_UP}, **theirs
        ),
        Method(
            f"Hugging Face, early exit after layer {exit_layer}",
            options={"assistant_early_exit": exit_layer},
            **theirs,
        ),
        Method("plain", target=BASELINE),
        *(Method(name, target=BASELINE, drafter=spec) for name, spec in chosen.items()),
    ]


def time_answers(
    model: TwigModel,
    prompts: Sequence[tuple[str, Inputs]],
    ways: Sequence[Method],
    path: Path,
    *,
    max_new_tokens: int,
    rounds: int,
    seconds: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Answer every prompt in all ways, and go on where an earlier call stopped.

    Args:
        model: Base and twig.
        prompts: Kind and inputs of each prompt.
        ways: What is compared.
        path: JSONL file with a line per answer; answers that were asked for with other settings
            stay in it and do not count.
        max_new_tokens: Most tokens of an answer.
        rounds: How often everything is answered.
        seconds: No prompt is begun once so much time has passed; ``None`` for no limit.
        progress: Told what is being done.

    Returns:
        The lines of those prompts that were answered in all ways.
    """
    began = time.perf_counter()
    asked = {way.name: _asked(way, max_new_tokens) for way in ways}
    read = [json.loads(text) for text in _whole_lines(path)]
    lines = [line for line in read if line["asked"] == asked.get(line["method"])]
    done = {(line["round"], line["prompt"], line["method"]) for line in lines}
    left = [
        (number, index)
        for number in range(rounds)
        for index in range(len(prompts))
        if any((number, index, way.name) not in done for way in ways)
    ]
    if left:
        for way in ways:
            answer(model, prompts[0][1], way, max_new_tokens=4)
    for number, index in left:
        if seconds is not None and time.perf_counter() - began > seconds:
            break
        if progress is not None:
            progress(f"round {number + 1} of {rounds}, prompt {index + 1} of {len(prompts)}")
        start = (number + index) % len(ways)
        for way in (*ways[start:], *ways[:start]):
            if (number, index, way.name) in done:
                continue
            before = time.process_time()
            given = answer(model, prompts[index][1], way, max_new_tokens=max_new_tokens)
            place: dict[str, Any] = {"round": number, "prompt": index, "kind": prompts[index][0]}
            place["processor_seconds"] = time.process_time() - before
            lines.append(place | _told(way, asked[way.name], given))
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    return _complete(lines, {way.name for way in ways})


def _told(way: Method, asked: str, given: Answer) -> dict[str, Any]:
    """Return what a line says about an answer."""
    return {
        "method": way.name,
        "asked": asked,
        "tokens": given.tokens,
        "seconds": given.prefill_seconds + given.decode_seconds,
        "accepted_lengths": given.accepted_lengths,
    }


def _complete(lines: Sequence[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """Return the lines of those prompts that were answered in all ways."""
    seen: dict[tuple[int, int], set[str]] = {}
    for line in lines:
        seen.setdefault((line["round"], line["prompt"]), set()).add(line["method"])
    return [line for line in lines if seen[line["round"], line["prompt"]] >= names]


def _asked(way: Method, max_new_tokens: int) -> str:
    """Say in a line what a way is asked for, to tell its answers from those of other settings."""
    return json.dumps([max_new_tokens, way.drafter, dict(way.options)])


def _whole_lines(path: Path) -> list[str]:
    """Read the lines of a file; what a killed run left of a line is cut off."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return whole.splitlines()


def summarise(
    lines: Sequence[Mapping[str, Any]], ways: Sequence[Method], clock: str = "seconds"
) -> list[dict[str, Any]]:
    """Sum measurements up, a row per way.

    Args:
        lines: What :func:`time_answers` returned.
        ways: What was compared; speeds are those of the first, times something.
        clock: ``"seconds"``, or ``"processor_seconds"`` where other work shares the machine.

    Returns:
        Per way ``tokens_per_second``, ``speed``, ``accepted_length`` (tokens that a verification
        gains in the mean, none where nothing tells it), ``same`` (answers with the tokens of the
        first way), ``answers``, and the speed by kind of prompt. Times are medians over the rounds
        of a prompt.
    """
    kinds = list(dict.fromkeys(line["kind"] for line in lines))
    wanted = {(n["round"], n["prompt"]): n["tokens"] for n in lines if n["method"] == ways[0].name}
    seconds = {
        (way.name, kind): _seconds(lines, way.name, kind, clock)
        for way in ways
        for kind in (*kinds, None)
    }
    rows = []
    for way in ways:
        own = [line for line in lines if line["method"] == way.name]
        gains = [gain for line in own for gain in line["accepted_lengths"]]
        rows.append(
            {
                "method": way.name,
                "drafter": way.drafter if way.engine == "twigkit" else dict(way.options),
                "tokens_per_second": _tokens(own) / seconds[way.name, None],
                "speed": seconds[ways[0].name, None] / seconds[way.name, None],
                "accepted_length": fmean(gains) if gains else None,
                "answers": len(own),
                "same": sum(n["tokens"] == wanted[n["round"], n["prompt"]] for n in own),
                "kinds": {
                    kind: seconds[ways[0].name, kind] / seconds[way.name, kind] for kind in kinds
                },
            }
        )
    return rows


def _seconds(
    lines: Sequence[Mapping[str, Any]], method: str, kind: str | None, clock: str
) -> float:
    """Add up what a way takes for the prompts of a kind, or all: the medians over the rounds."""
    times: dict[int, list[float]] = {}
    for line in lines:
        if line["method"] == method and kind in (None, line["kind"]):
            times.setdefault(line["prompt"], []).append(line[clock])
    return sum(median(many) for many in times.values())


def _tokens(own: Sequence[Mapping[str, Any]]) -> int:
    """Count the new tokens, each prompt once."""
    return sum({line["prompt"]: len(line["tokens"]) for line in own}.values())
