"""What a run tells while it goes on: the log, the progress bar and accelerate's trackers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from twigkit.errors import TrainingError
from twigkit.training.checkpointing.resume_check import flatten
from twigkit.training.loop.gradient_accumulation import Figures
from twigkit.training.loop.run_log import RunLog
from twigkit.training.spec import TrainingSpec

ACCEPTED = "accepted"
"""Figure of an evaluation that the bar goes on showing: the accepted length of the draft."""

_FURTHER = re.compile(r".*_(?!1$)\d+")
"""Names of a row's later members, such as ``right_2``; the bar has room for the first only."""


def means_of(figures: Figures) -> dict[str, float]:
    """Divide an objective's sums.

    Args:
        figures: A sum ``a/b`` is divided by the unit or the sum ``b``; 0 where that is 0.

    Returns:
        Means by the name before the stroke; sums without one are left out.
    """
    found = {}
    for name, value in figures.sums.items():
        top, stroke, bottom = name.partition("/")
        if stroke:
            divisor = figures.counts.get(bottom, figures.sums.get(bottom, 0.0))
            found[top] = value / divisor if divisor else 0.0
    return found


class Progress:
    """Reports to the run log, the progress bar and the trackers, in the main process alone.

    Attributes:
        run_log: The log.
    """

    def __init__(
        self, spec: TrainingSpec, accelerator: Any, run_log: RunLog, total: int, show: bool
    ) -> None:
        """Keep the settings; :meth:`start` opens log, bar and trackers."""
        self.run_log = run_log
        self._spec, self._accelerator = spec, accelerator
        self._total, self._show = total, show and accelerator.is_main_process
        self._bar: Any = None
        self._accepted: dict[str, float] = {}

    def start(self, step: int, launch: Mapping[str, Any]) -> None:
        """Open everything at a step.

        Args:
            step: Optimiser steps that are done.
            launch: What to say about this launch.

        Raises:
            TrainingError: If the log cannot be written.
        """
        if not self._accelerator.is_main_process:
            return
        self.run_log.rewind(step)
        self.run_log.write("launch", step, launch)
        self._bar = tqdm(
            total=self._total,
            initial=step,
            desc=self._spec.objective.kind,
            unit="step",
            disable=not self._show,
            dynamic_ncols=True,
        )
        if self._spec.trackers:
            settings = {
                name: value if isinstance(value, bool | int | float | str) else str(value)
                for name, value in flatten(self._spec.model_dump(mode="json")).items()
            }
            self._accelerator.init_trackers("twigkit", config=settings)

    def advance(self, figures: Figures, speed: float) -> None:
        """Move the bar by a step.

        Args:
            figures: The step's.
            speed: Answer tokens per second.
        """
        if self._bar is None:
            return
        shown = {"loss": figures.loss, **figures.parts, **means_of(figures), **self._accepted}
        texts = {n: f"{value:.3g}" for n, value in shown.items() if not _FURTHER.fullmatch(n)}
        self._bar.set_postfix({**texts, "tokens/s": f"{speed:.0f}"}, refresh=False)
        self._bar.update()

    def tell(self, event: str, step: int, figures: Mapping[str, Any]) -> None:
        """Write a line of the log, and the same to the trackers.

        Args:
            event: What happened.
            step: Optimiser steps that are done.
            figures: By name; may be nested.

        Raises:
            TrainingError: If the log cannot be written.
        """
        if not self._accelerator.is_main_process:
            return
        line = self.run_log.write(event, step, figures)
        if ACCEPTED in figures:
            self._accepted = {ACCEPTED: figures[ACCEPTED]}
        if self._spec.trackers:
            numbers = {
                f"{event}/{name}": value
                for name, value in flatten(line).items()
                if isinstance(value, int | float) and name != "step"
            }
            self._accelerator.log(numbers, step=step)

    def close(self) -> None:
        """Close the bar, the log and the trackers."""
        if self._bar is not None:
            self._bar.close()
        self.run_log.close()
        for tracker in self._accelerator.trackers:
            tracker.finish()


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that accelerate does not know or would leave out in silence.

    Raises:
        TrainingError: Naming those that there are.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    own = {str(kind) for kind in LoggerType}
    ready = sorted({*map(str, get_available_trackers())} | ({*LOGGER_TYPE_TO_CLASS} - own))
    for name in names:
        if name not in ready:
            known = name in own
            raise TrainingError(
                f"the tracker {name!r} is {'not installed' if known else 'unknown'}; expected "
                f"{', '.join(ready) or 'none, as no tracker is installed'}. "
                f"{'Install its package' if known else 'Mend the name'} or leave it out of "
                "'trackers'"
            )
