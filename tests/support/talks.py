"""A base with a processor whose chat template knows answers, and conversations to train it on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.checkpoints import tiny_processor, write_base

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{{ ' ' }}{% endfor %}"
    "{{ '</s>' if message['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
"""For the tokenizer of ``tiny_processor``; an end token after answers."""


def talking_processor() -> Any:
    """The processor of ``tests.support.tiny.tiny_llava`` with that template."""
    processor = tiny_processor()
    processor.chat_template = processor.tokenizer.chat_template = TEMPLATE
    return processor


def talks(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions about noise, with answers of two to seven words."""
    chance, words = random.Random(seed), ["a", "red", "blue", "circle"]
    return [
        {
            "id": f"talk-{number}",
            "image": Image.frombytes("RGB", (20, 16), chance.randbytes(20 * 16 * 3)),
            "question": "what is in the picture ?",
            "answer": " ".join(chance.choices(words, k=chance.randint(2, 7))),
        }
        for number in range(count)
    ]


def write_talks(folder: Path, count: int, *, layers: int = 6) -> dict[str, Any]:
    """Write a base and conversations; return a spec's ``data`` and the base's folder."""
    write_base(folder / "base", layers=layers)
    talking_processor().save_pretrained(folder / "base")
    pictures = folder / "pictures"
    pictures.mkdir()
    records = []
    for talk in talks(count):
        talk["image"].save(pictures / f"{talk['id']}.png")
        turns = [
            {"from": "human", "value": f"<image>\n{talk['question']}"},
            {"from": "gpt", "value": talk["answer"]},
        ]
        name = f"{talk['id']}.png"
        records.append({"id": talk["id"], "image": name, "conversations": turns})
    (folder / "talks.json").write_text(json.dumps(records))
    return {"base": str(folder / "base"), "path": str(folder / "talks.json"),
            "images": str(pictures)}  # fmt: skip
