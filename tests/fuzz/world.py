"""Where cases run: the models that they use, the folder of a case, and what must not change."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.checkpoints import Folders
from tests.support.processors import llava
from twigkit import TwigkitError, TwigModel
from twigkit.cli.main import main
from twigkit.training.data.chat_template import Renderer
from twigkit.training.data.encoding import Encoder

State = dict[str, tuple[int, ...]]


@dataclass
class World:
    """What the cases share; none of it may change.

    Attributes:
        folders: A base, a twig on it and a picture.
        base: The base, loaded.
        encoder: Turns samples into batches for it.
    """

    folders: Folders
    base: Any
    encoder: Encoder

    @classmethod
    def of(cls, folders: Folders) -> World:
        """Load what cases need over and over."""
        model = TwigModel.from_pretrained(folders.base)
        return cls(folders, model.base, Encoder(Renderer(llava(), longest=300)))


class WrongOutcomeError(AssertionError):
    """A case ended in another way than with success or one line."""


@contextlib.contextmanager
def case_folder(world: World, parent: Path) -> Iterator[Path]:
    """Make a folder to run a case in; nothing but its folder ``free`` may change.

    Raises:
        WrongOutcomeError: If something else has changed.
    """
    folder = parent / "case"
    shutil.rmtree(folder, ignore_errors=True)
    free = folder / "free"
    free.mkdir(parents=True)
    (folder / "notes.txt").write_text("to be kept")
    watched = (folder, world.folders.base.parent)
    before = [_state(path, free) for path in watched]
    home = Path.cwd()
    os.chdir(free)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield free
    finally:
        os.chdir(home)
    for path, old in zip(watched, before, strict=True):
        new = _state(path, free)
        if new != old:
            raise WrongOutcomeError(f"files changed: {sorted(set(old.items()) ^ set(new.items()))}")
    shutil.rmtree(folder, ignore_errors=True)


def _state(folder: Path, free: Path) -> State:
    """Note every file's size, time, mode and number, except below a folder."""
    found: State = {}
    for place, folders, names in os.walk(folder):
        if Path(place) == free:
            folders.clear()
            continue
        for name in names:
            seen = os.lstat(os.path.join(place, name))
            found[os.path.join(place, name)] = (
                seen.st_size, seen.st_mtime_ns, seen.st_mode, seen.st_ino,
            )  # fmt: skip
    return found


def command(words: list[str]) -> str:
    """Run a command line; give its outcome, or raise.

    Raises:
        WrongOutcomeError: If it fails in another way than with one line and status 2.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: object = main(words)
        except SystemExit as left:
            status = left.code
    told = err.getvalue()
    if status not in (0, 2):
        raise WrongOutcomeError(f"status {status}: {told}")
    if status == 2:
        lines = told.splitlines()
        problems = bool(lines) and all(line.startswith("twigkit: problem: ") for line in lines)
        if not problems and (len(lines) != 1 or not lines[0].startswith("twigkit: ")):
            raise WrongOutcomeError(f"status 2 with {len(lines)} lines: {told[:2000]!r}")
    return "refused" if status else "done"


def refused(error: TwigkitError) -> str:
    """Look at the message of a refusal."""
    if not str(error).strip():
        raise WrongOutcomeError(f"{type(error).__name__} without a message")
    return "refused"


def plain(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text())
