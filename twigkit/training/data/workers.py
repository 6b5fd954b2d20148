"""Processes that prepare data: how the training process learns that one of them died."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from twigkit.errors import TrainingError


@contextmanager
def no_alarm() -> Iterator[None]:
    """Keep torch from raising a worker's death wherever the process happens to be.

    It installs a signal handler that would do so, in the midst of an optimiser step or of a file
    that is being written. Without, the death is found within seconds when the next batch is waited
    for.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGCHLD) is not before:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


@contextmanager
def worker_deaths(*cut_off: type[Exception]) -> Iterator[None]:
    """Turn the signs that a worker died into an error of twigkit.

    Args:
        *cut_off: Further errors that mean it here: what is raised when a batch is fetched whose
            worker is gone.

    Raises:
        TrainingError: If a worker died.
    """
    signs: tuple[type[Exception], ...] = (RuntimeError, *cut_off)
    try:
        yield
    except signs as error:
        if not isinstance(error, cut_off) and "DataLoader worker" not in str(error):
            raise
        told = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TrainingError(
            f"a process that prepares data died: {told}. Often memory ran out (shared memory "
            "counts, too): lower data.workers; data.workers: 0 prepares it in the training process "
            "and shows errors in full"
        ) from error
