"""Lets a language model answer prompts, in batches, and keeps the answers in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from twigkit.demo.language.prompts import LanguagePrompt
from twigkit.model import TwigModel


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a prompt in the model's chat template, ready to be answered."""
    turns = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return ids


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Read the answers that are there; a last line that was not finished does not count."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def write_answers(
    model: TwigModel,
    tokenizer: Any,
    prompts: Sequence[LanguagePrompt],
    path: Path,
    *,
    max_new_tokens: int,
    batch: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Answer prompts greedily, and go on where an earlier call stopped.

    Prompts are answered in batches of similar length, a group at a time in their order.

    Args:
        model: Base and twig; the base answers.
        tokenizer: Its tokenizer, with a chat template.
        prompts: The prompts.
        path: JSONL file; each line has kind and text of a prompt, the answer's text and its tokens,
            the last of which ends it unless it was too long. Answers to other prompts stay in it.
        max_new_tokens: Most tokens of an answer.
        batch: Prompts at a time.
        progress: Told how many answers there are.

    Returns:
        The lines, in the order of the prompts.
    """
    known = {line["prompt"]: line for line in read_answers(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_unfinished(path)
    missing = [n for n in range(len(prompts)) if prompts[n].text not in known]
    ids = {n: prompt_ids(tokenizer, prompts[n].text) for n in missing}
    for start in range(0, len(missing), GROUP * batch):
        group = sorted(missing[start : start + GROUP * batch], key=lambda n: len(ids[n]))
        for first in range(0, len(group), batch):
            numbers = group[first : first + batch]
            found = _answer(model, [ids[n] for n in numbers], max_new_tokens)
            lines = [
                {
                    "kind": prompts[number].kind,
                    "prompt": prompts[number].text,
                    "answer": tokenizer.decode(answer, skip_special_tokens=True),
                    "tokens": answer,
                }
                for number, answer in zip(numbers, found, strict=True)
            ]
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            known |= {line["prompt"]: line for line in lines}
            if progress is not None:
                progress(sum(prompt.text in known for prompt in prompts))
    return [known[prompt.text] for prompt in prompts]


GROUP = 8
"""Batches that are sorted by length together."""


def _drop_unfinished(path: Path) -> None:
    """Cut off what a killed run left of a line."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


@torch.inference_mode()
def _answer(model: TwigModel, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """Answer a batch; each answer ends with its end token, if it has one."""
    pad = model.base.generation_config.pad_token_id
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    output: Any = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        drafter="plain",
    )
    ends = model.base.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    answers = []
    for row in output[:, longest:].tolist():
        end = next((n + 1 for n, token in enumerate(row) if token in ends), len(row))
        answers.append(row[:end])
    return answers
