"""Runs cases, each within bounds of time and memory; alone it goes on for a while.

``python -m tests.fuzz.runner --seconds 60`` prints its seed; ``--seed`` repeats a run, and
``--case AREA:SEED:NUMBER`` one case of it, with its traceback.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import logging
import os
import resource
import secrets
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from types import FrameType

from tests.fuzz.areas import AREAS
from tests.fuzz.world import World, WrongOutcomeError, case_folder

SECONDS = 20.0
"""Most processor time of a case: a hundred times what the slowest takes."""

GROWTH = 1 << 30
"""Most bytes by which a case may raise the peak of the process's memory."""

MEMORY = 6 << 30
"""Address space of a long run."""


def run_case(world: World, area: str, seed: int, number: int, parent: Path) -> str:
    """Run one case and give its outcome.

    Raises:
        Exception: Whatever the case raised that is no refusal.
        WrongOutcomeError: If it changed files, or took too much time or memory.
    """
    rng = Random(f"{area}:{seed}:{number}")
    before = _peak()
    old = signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        with case_folder(world, parent) as free:
            outcome = AREAS[area](rng, free, world)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)
    if _peak() - before > GROWTH:
        raise WrongOutcomeError(f"it took {(_peak() - before) / 1e9:.1f} GB of memory")
    return outcome


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _too_long(number: int, frame: FrameType | None) -> None:
    raise WrongOutcomeError(f"it took more than {SECONDS:.0f} s of processor time")


def main() -> int:
    """Run cases until the time is over; say what was found.

    Returns:
        1 if something was found, otherwise 0.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--area", choices=AREAS, action="append")
    parser.add_argument("--case", metavar="AREA:SEED:NUMBER")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    faulthandler.enable()
    logging.disable()  # broken samples are logged
    from tests.support.checkpoints import write_folders

    with tempfile.TemporaryDirectory() as made:
        models, parent = Path(made) / "models", Path(made) / "cases"
        models.mkdir()
        world = World.of(write_folders(models))
        if args.case:
            area, seed, number = args.case.split(":")
            print(run_case(world, area, int(seed), int(number), parent))
            return 0
        return _run(world, parent, args.seed, args.seconds, args.area or list(AREAS))


def _run(world: World, parent: Path, seed: int, seconds: float, areas: list[str]) -> int:
    """Run one case of each area in turn."""
    print(f"seed {seed}", flush=True)
    counts: collections.Counter[str] = collections.Counter()
    found: dict[str, str] = {}
    ends = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        for area in areas:
            name = f"{area}:{seed}:{number}"
            faulthandler.dump_traceback_later(120, exit=True)  # a call that never comes back
            try:
                counts[f"{area} {run_case(world, area, seed, number, parent)}"] += 1
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                counts[f"{area} FOUND"] += 1
                place = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{area} {type(error).__name__} {os.path.basename(place.filename)}"
                kind += f":{place.lineno}"
                if kind not in found:
                    found[kind] = name
                    told = " ".join(str(error).split())[:300]
                    print(f"FOUND {kind}: {told}\n  --case {name}", flush=True)
        number += 1
    faulthandler.cancel_dump_traceback_later()
    for name, count in sorted(counts.items()):
        print(f"{count:8} {name}")
    print(f"seed {seed}, {seconds:.0f} s, {len(found)} kinds of findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
