"""Commands and ranks in processes that start in no time: targets for a fork server."""

from __future__ import annotations

import multiprocessing
import os
import sys

import torch

from twigkit.cli.main import main
from twigkit.training import dry_run as rehearsal  # noqa: F401  so that they are there already


def run_command(words: list[str], rank: int = 0, world: int = 1, port: int = 0) -> None:
    """Run the command line, perhaps as one of several processes that share the work.

    Args:
        words: The words after ``twigkit``.
        rank: Which process this is.
        world: How many there are.
        port: Of the first one.
    """
    torch.set_num_threads(1)
    # As in a process that a user starts; workers would come from a fork server, too.
    multiprocessing.set_start_method("fork", force=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    if world > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            LOCAL_WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            ACCELERATE_USE_CPU="true",
        )
    sys.argv = ["twigkit", *words]
    sys.exit(main(words))
