"""A limit on what a part of a measurement may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from twigkit.errors import CapabilityError


class _Overdue(BaseException):
    """Ends what takes too long; nothing that it interrupts takes it for an error of its own."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise an error in the middle of what takes too long.

    It interrupts Python between two of its own instructions, so that one long call of a kernel is
    finished first. Where a system has no alarm, and in other threads than the first, nothing is
    interrupted.

    Args:
        seconds: What it may take; ``None`` for as long as it likes.

    Raises:
        CapabilityError: If it takes longer.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _Overdue

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Overdue:
        raise CapabilityError(
            f"the first answer took more than {seconds:g} s; allow it more"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


__all__ = ["deadline"]
