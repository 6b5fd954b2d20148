"""What is fuzzed: a function per area makes one case from random numbers and runs it."""

from __future__ import annotations

import argparse
import functools
import importlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.fuzz.mutation import WORDS, changed, spoilt, value, written
from tests.fuzz.world import World, WrongOutcomeError, command, plain, refused
from twigkit import RunSpec, TwigkitError, TwigModel, TwigSpec
from twigkit.cli.main import Parser
from twigkit.io.processors import open_picture
from twigkit.specs.base import Spec
from twigkit.specs.run import GenerationSpec
from twigkit.training import spec as training
from twigkit.training.data.bad_samples import BadSamples
from twigkit.training.data.loader import Loader
from twigkit.training.data.sources import Reader, read_records

Area = Callable[[Random, Path, World], str]

COMMANDS = (
    "generate", "grow", "import-reference", "inspect", "new-plugin", "plugins", "presets", "spec",
    "show", "train",
)  # fmt: skip
"""Commands whose work is short or can be kept short; the others measure or train."""

BOUNDS = {
    "generate": ["--max-new-tokens", "3"],
    "train": ["--dry-run", "--no-timing"],
}
"""Options that keep a command short; given last, so that they count."""


@functools.cache
def _actions(name: str) -> tuple[argparse.Action, ...]:
    """List the options of a command."""
    parser = Parser(prog=name)
    importlib.import_module(f"twigkit.cli.{name.replace('-', '_')}").add_arguments(parser)
    found: list[argparse.Action] = []
    todo = list(parser._actions)
    while todo:
        action = todo.pop(0)
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                todo += sub._actions
        found.append(action)
    return tuple(action for action in found if "--help" not in action.option_strings)


def _start(name: str, free: Path, world: World) -> list[str]:
    """Return words with which a command works."""
    model = world.folders.model
    question = ["--prompt", "what is in the picture ?", "--image", str(world.folders.picture)]
    return {
        "generate": [*model, *question],
        "grow": [*model[:2], "--out", "new", "--depth", "2"],
        "inspect": [str(world.folders.base)],
        "new-plugin": ["some-kit"],
        "show": ["pruning", *model, *question, "--budget", "8", "--out", "shown.png"],
        "train": [str(_training(free, world))],
        "spec": ["example"],
    }.get(name, [])


def _training(free: Path, world: World) -> Path:
    """Write a training spec that a dry run takes."""
    shutil.copy(world.folders.picture, free / "picture.png")
    (free / "records.json").write_text(json.dumps(RECORDS))
    data = {"path": "records.json", "workers": 0}
    spec = {"twig": {"base": "demo"}, "data": data, "batch": 4}
    path = free / "training.json"
    path.write_text(json.dumps(spec))
    return path


def command_line(rng: Random, free: Path, world: World) -> str:
    """Give a command some more options than it needs, with values that may or may not fit."""
    name = rng.choice(COMMANDS)
    works = rng.random() < 0.8
    words = [name, *(_start(name, free, world) if works else [])]
    share = rng.choice((0.05, 0.25)) if works else 0.3
    for action in _actions(name):
        wanted = not works and (action.required or not action.option_strings)
        if rng.random() > (0.95 if wanted else share):
            continue
        if action.option_strings:
            words.append(rng.choice(action.option_strings))
        if action.nargs != 0:
            words.append(_argument(rng, action, free, world))
    words += BOUNDS.get(name, []) if rng.random() < 0.97 or name == "train" else [rng.choice(WORDS)]
    return command(words)


def _argument(rng: Random, action: argparse.Action, free: Path, world: World) -> str:
    """Draw a value for an option; every path is inside the folder of the case or the world's."""
    if action.choices and rng.random() < 0.8:
        return str(rng.choice(list(action.choices)))
    if action.dest in ("out", "path", "folder", "name", "module"):
        return rng.choice(
            ("new", "a/b", ".", "", "../notes.txt", "../notes.txt/x", "x" * 300, "\x00", "é\n")
        )
    paths = [world.folders.base, world.folders.twig, world.folders.picture, ".", "../notes.txt"]
    if action.dest in ("base", "twig", "source", "checkpoint", "config", "model", "revision"):
        return str(rng.choice([*paths, "./nothing", "", "x" * 5000, "a/b/c/d"]))
    draw = rng.random()
    if draw < 0.3:
        return str(rng.choice(paths))
    if draw < 0.45 and action.dest in ("spec", "generation", "file"):
        made = free / "made.yaml"
        made.write_bytes(written(rng, changed(rng, TRAINING), ".yaml"))
        return str(made)
    return rng.choice((*WORDS, "1", "2", "8", "0.5", "1/9", "1/0", "-3", "2", str(2**64), "1e-40"))


TRAINING = training.example().model_dump(mode="json")
SPECS: tuple[tuple[type[Spec], object], ...] = (
    (training.TrainingSpec, TRAINING),
    (TwigSpec, TwigSpec(base="b", heads={"lm": "lm", "m": "medusa"}).model_dump(mode="json")),
    (GenerationSpec, GenerationSpec(budget=0.5, stop=("a",)).model_dump(mode="json")),
    (RunSpec, RunSpec(twig=TwigSpec(base="b")).model_dump(mode="json")),
)


def spec(rng: Random, free: Path, world: World) -> str:
    """Change a spec file; one that is taken must be written and read back as it is."""
    cls, data = rng.choice(SPECS)
    ending = rng.choice((".yaml", ".json"))
    path = free / f"spec{ending}"
    path.write_bytes(written(rng, changed(rng, data), ending))
    try:
        read = cls.from_file(path)
    except TwigkitError as error:
        return refused(error)
    if cls.from_yaml(read.to_yaml()) != read or cls.from_json(read.to_json()) != read:
        raise WrongOutcomeError("the spec is not read back as it was written")
    return "done"


def twig(rng: Random, free: Path, world: World) -> str:
    """Spoil a twig's folder; one that loads must answer."""
    folder = shutil.copytree(world.folders.twig, free / "twig")
    manifest, weights = folder / "twig.json", folder / "model.safetensors"
    kind = rng.randrange(4)
    data = plain(manifest)
    if kind == 0:
        manifest.write_bytes(written(rng, changed(rng, data), ".json"))
    elif kind == 1:
        part = rng.choice(("spec", "sources", "base", "checksums", "provenance"))
        data[part] = changed(rng, data[part])
        manifest.write_bytes(written(rng, data, ".json"))
    else:
        if rng.random() < 0.7:
            manifest.write_bytes(written(rng, {**data, "checksums": {}}, ".json"))
        if kind == 2:
            weights.write_bytes(spoilt(rng, weights.read_bytes(), rng.choice((8, 2000, None))))
        else:
            _other_weights(rng, weights)
    try:
        model = TwigModel.from_pretrained(world.base, twig=folder)
        ids = torch.randint(3, 90, (1, 5), generator=torch.Generator().manual_seed(1))
        model.generate(ids, max_new_tokens=3)
    except TwigkitError as error:
        return refused(error)
    return "done"


def _other_weights(rng: Random, path: Path) -> None:
    """Replace, rename, cut or retype one tensor."""
    state = load_file(path)
    name = rng.choice(list(state))
    tensor = state.pop(name)
    kind = rng.randrange(5)
    if kind == 0:
        state[rng.choice([word for word in WORDS if "\ud800" not in word])] = tensor
    elif kind == 1:
        state[name] = tensor[: len(tensor) // 2].clone()
    elif kind == 2:
        state[name] = tensor.to(rng.choice((torch.float16, torch.float64, torch.int32, torch.bool)))
    elif kind == 3:
        tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice((torch.nan, torch.inf, 1e30))
        state[name] = tensor
    save_file(state, path)


FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


@functools.cache
def _encoded(format: str, mode: str) -> bytes:
    """Write a small picture."""
    picture = Image.frombytes("RGB", (19, 13), Random(3).randbytes(19 * 13 * 3)).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def picture(rng: Random, free: Path, world: World) -> str:
    """Spoil a picture, mostly its header; one that opens is RGB."""
    data = _encoded(rng.choice(FORMATS), rng.choice(("RGB", "L")))
    path = free / "picture"
    path.write_bytes(spoilt(rng, data, rng.choice((64, 200))))
    try:
        opened = open_picture(path)
    except TwigkitError as error:
        return refused(error)
    if opened.mode != "RGB":
        raise WrongOutcomeError(f"a picture of mode {opened.mode}")
    return "done"


RECORDS = (
    {
        "id": "a",
        "image": "picture.png",
        "conversations": [
            {"from": "human", "value": "<image>\nwhat is in the picture ?"},
            {"from": "gpt", "value": "a red circle"},
        ],
    },
    {"messages": [{"role": "user", "content": "how many"}, {"role": "assistant", "content": "a"}]},
    {"images": ["picture.png"], "texts": [{"user": "what", "assistant": "blue square"}]},
    {"question": "how many", "answer": "a"},
)


def records(rng: Random, free: Path, world: World) -> str:
    """Change records among whole ones; batches of what is left come, or it is said why not."""
    shutil.copy(world.folders.picture, free / "picture.png")
    made = [changed(rng, record) if rng.random() < 0.6 else record for record in RECORDS]
    made += [value(rng)] if rng.random() < 0.2 else []
    if rng.random() < 0.5:
        path = free / "records.json"
        path.write_bytes(written(rng, made, ".json"))
    else:
        path = free / "records.jsonl"
        path.write_bytes(b"\n".join(written(rng, record, ".json") for record in made))
    try:
        source = read_records(path)
        if len(source):
            few = BadSamples(len(source), len(source))
            reader = Reader(source, free)
            loader = Loader(
                reader, world.encoder, np.arange(len(source)), few, batch=4, micro_batch=2, seed=1
            )
            next(iter(loader.steps()))
    except TwigkitError as error:
        return refused(error)
    return "done"


AREAS: dict[str, Area] = {
    "command": command_line,
    "spec": spec,
    "twig": twig,
    "picture": picture,
    "records": records,
}
"""The areas by name."""
