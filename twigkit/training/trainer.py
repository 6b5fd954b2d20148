"""Training from wherever the run stands: steps, evaluations, snapshots, and the twig at the end.

``out`` holds a folder ``training`` with the log (``log.jsonl``) and the snapshots while the run
goes on, and the twig itself once it is over. Whatever happens to the process, the same call again
goes on from the last snapshot and, since every random number is a function of seed and step, comes
to the weights of a run that nothing happened to.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from twigkit.backbone.few_rows import stock_products
from twigkit.errors import CapabilityError, TrainingError
from twigkit.interfaces.objective import Objective
from twigkit.io.timing import Stopwatch
from twigkit.learning.batch import BadSample
from twigkit.model import TwigModel
from twigkit.training.checkpointing.checkpointer import Checkpointer
from twigkit.training.checkpointing.snapshot_files import RunState
from twigkit.training.data.bad_samples import sharing
from twigkit.training.data.loader import Data, open_data
from twigkit.training.data.sources import SampleSource
from twigkit.training.data.workers import worker_deaths
from twigkit.training.loop.evaluation import evaluate, judge
from twigkit.training.loop.optimiser_step import PARTS, OptimiserStep, StepResult
from twigkit.training.loop.progress import Progress, check_trackers, means_of
from twigkit.training.loop.run_log import Line, RunLog, RunningMeans, read_lines
from twigkit.training.setup import accelerator_for, load_model, make_objective
from twigkit.training.spec import TrainingSpec
from twigkit.twig.quantised_weights import is_quantised_twig

__all__ = ["Result", "Training", "train"]

LOG = "log.jsonl"
"""The run's log, in the folder of the run."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        out: Folder of the twig.
        log: File of the log.
        steps: Optimiser steps that the weights in ``out`` have had.
        trained: Optimiser steps of the whole run; fewer than planned if it stopped early.
        resumed_from: Step that this call went on from; 0 if it began the run.
        held_out: Criterion of the weights in ``out`` on held-out samples; ``None`` if they were not
            evaluated.
        criterion_name: Name of the criterion, ``"loss"`` as a rule.
        seconds: What this call's steps took but for the first, in which workers start and memory is
            allotted; without evaluations and snapshots.
        tokens: Answer tokens of these steps.
        overhead: Share of these seconds that is neither the objective nor the optimiser.
    """

    out: Path
    log: Path
    steps: int
    trained: int
    resumed_from: int
    held_out: float | None
    criterion_name: str
    seconds: float
    tokens: int
    overhead: float

    @property
    def history(self) -> list[Line]:
        """The lines of the log."""
        return read_lines(self.log)


def train(
    spec: TrainingSpec,
    *,
    model: TwigModel | None = None,
    dataset: SampleSource | None = None,
    objective: Objective | None = None,
    processor: Any = None,
    show: bool = True,
    allow_sources: Collection[str] = (),
) -> Result:
    """Train a twig, or go on with the run that lies in ``spec.out``.

    Under ``accelerate launch`` every process calls this, and they share the work.

    Args:
        spec: The run.
        model: Base and twig; ``None`` loads and grows what the spec says.
        dataset: SampleSource in place of those that the spec names.
        objective: What is learnt, in place of what the spec names.
        processor: The base's processor; ``None`` loads it from where the base came from.
        show: Whether to show a progress bar.
        allow_sources: Factories of samples, ``package.module:factory``, that the spec may name
            besides those that installed packages declare as entry points of ``twigkit.sources``.

    Returns:
        How the run ended. The twig lies in ``spec.out`` and is held by the model.

    Raises:
        TrainingError: If the run cannot begin or go on; what it saved is intact, and the same call
            goes on from there.
        TwigkitError: If base, twig or data cannot be used.
    """
    check_trackers(spec.trackers)
    accelerator = accelerator_for(spec, model)
    model = model or load_model(spec, accelerator.device)
    data = open_data(
        spec,
        model.base,
        dataset=dataset,
        processor=processor,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        allow_sources=allow_sources,
    )
    objective = objective or make_objective(spec.objective, model)
    return Training(spec, model, objective, data, accelerator, show=show).run()


class Training:
    """One run, in one of its processes."""

    def __init__(
        self,
        spec: TrainingSpec,
        model: TwigModel,
        objective: Objective,
        data: Data,
        accelerator: Any,
        *,
        show: bool = True,
    ) -> None:
        """Put the parts together.

        Args:
            spec: The run.
            model: Base and twig.
            objective: What is learnt.
            data: Loaders of this process.
            accelerator: Accelerate's accelerator.
            show: Whether to show a progress bar.

        Raises:
            CapabilityError: If there is no twig, or its weights are rounded.
            TrainingError: If the objective trains nothing.
        """
        if model.twig is None:
            raise CapabilityError(
                "there is no twig to train; grow one first, or let the spec do it"
            )
        if is_quantised_twig(model.twig):
            raise CapabilityError(
                "the twig's weights are rounded to eight bits, which can be neither trained nor "
                "saved; load it with plain weights"
            )
        self.spec, self.data, self.accelerator = spec, data, accelerator
        total = spec.total_steps(data.train.samples)
        self.optimiser_step = OptimiserStep(spec, objective, model.twig, accelerator, total)
        held = 0 if data.evaluation is None else data.evaluation.samples
        samples = {"samples": data.train.samples, "held out": held, **data.digests}
        self.checkpointer = Checkpointer(spec, model, self.optimiser_step, accelerator, samples)
        self.run_log = RunLog(self.checkpointer.folder / LOG)
        self.progress = Progress(spec, accelerator, self.run_log, total, show)
        self.state, self.window = RunState(), RunningMeans()
        self.tokens = 0
        self.reading_step = 1  # the step that samples are read for, or evaluated after

    def run(self) -> Result:
        """Train to the end, from the start or from the last snapshot.

        Returns:
            How it ended.

        Raises:
            TrainingError: If it cannot begin or go on.
        """
        with ExitStack() as stack:
            self.checkpointer.lock(stack)
            stack.callback(self.progress.close)
            stack.enter_context(worker_deaths())
            # What measures fastest differs from run to run, and rounds in another way.
            stack.enter_context(stock_products())
            self.state = self.checkpointer.resume()
            resumed = self.state.step
            self.window = RunningMeans(**self.state.window)
            self.data.bad_samples.broken.update(self.state.broken)
            told = [line for line in read_lines(self.run_log.path) if line.get("event") == "cut"]
            self.data.bad_samples.cut.update(line["id"] for line in told if line["step"] <= resumed)
            self.data.bad_samples.report = self._tell_broken
            self.data.bad_samples.share = sharing(self.accelerator)
            if not self.state.finished:
                self.checkpointer.in_main(lambda: self.progress.start(resumed, self._launch()))
            batches = self.data.train.steps(resumed)
            self.optimiser_step.watch.start()
            while not self.state.finished:
                self.reading_step = self.state.step + 1
                self._step(next(batches))
                if self.state.step == resumed + 1 and not self.state.finished:
                    self.optimiser_step.watch, self.tokens = Stopwatch(PARTS), 0
            steps = self.checkpointer.export(self.state)
        chosen = self.state.latest if steps == self.state.step else self.state.best
        clock = self._clock()
        return Result(
            out=self.checkpointer.out,
            log=self.run_log.path,
            steps=steps,
            trained=self.state.step,
            resumed_from=resumed,
            held_out=chosen,
            criterion_name=self.optimiser_step.objective.criterion_name,
            seconds=clock["seconds"],
            tokens=self.tokens,
            overhead=clock["overhead"],
        )

    def _step(self, batches: list[Any]) -> None:
        """Take one optimiser step, and do what is due after it."""
        step, watch = self.state.step, self.optimiser_step.watch
        watch.lap("data")
        numbers = [self.data.train.number(step, place) for place in range(len(batches))]
        taken = self.optimiser_step.take(step, batches, numbers, self.checkpointer.intact)
        self.state.step = step + 1
        self.state.finished = self.state.step >= self.optimiser_step.total
        every = self.spec.evaluate_every
        evaluating = self.data.evaluation is not None and (
            self.state.finished or (every is not None and self.state.step % every == 0)
        )
        self._tell(taken, flush=evaluating)
        watch.lap("host")
        better = evaluating and self._evaluate()
        if better or self.state.finished or self.state.step % self.spec.save_every == 0:
            self.state.window = asdict(self.window)
            self.state.broken = dict(self.data.bad_samples.broken)
            self.checkpointer.save(self.state, best=better, before=self.run_log.sync)
        watch.start()  # evaluations and snapshots are no part of a step

    def _tell(self, taken: StepResult, flush: bool) -> None:
        """Show a step, and write a line of the log for every few of them."""
        figures, step = taken.figures, self.state.step
        self.tokens += figures.counts.get("tokens", 0)
        parts = {f"parts.{name}": value for name, value in figures.parts.items()}
        means = {"loss": figures.loss, "norm": taken.norm, **parts, **means_of(figures)}
        self.window.add(means)
        self.progress.advance(figures, self._clock()["tokens_per_second"])
        if step % self.spec.log_every and not flush and not self.state.finished:
            return
        means = self.window.means()
        means_of_parts = {name: means.pop(f"parts.{name}") for name in figures.parts}
        line = {**means, "parts": means_of_parts, "rate": taken.rate, "units": figures.counts}
        self.progress.tell("step", step, {**line, "clock": self._clock()})
        self.window.clear()

    def _clock(self) -> dict[str, float]:
        """Say where the time of this call's steps went so far."""
        seconds = dict(self.optimiser_step.watch.seconds)
        whole = sum(seconds.values()) or math.inf
        return {
            "seconds": round(sum(seconds.values()), 3),
            "tokens_per_second": round(self.tokens / whole, 1),
            "overhead": round((seconds["data"] + seconds["host"]) / whole, 4),
            "data": round(seconds["data"] / whole, 4),
        }

    def _evaluate(self) -> bool:
        """Evaluate, and return whether the parameters are to be kept as the best so far."""
        started = time.perf_counter()
        batches = () if self.data.evaluation is None else self.data.evaluation.once()
        self.reading_step = self.state.step
        figures = evaluate(self.accelerator, self.optimiser_step.module, batches, self.spec.seed)
        means = means_of(figures)
        criterion = self.optimiser_step.objective.criterion(figures.loss, means)
        if not math.isfinite(criterion):
            raise TrainingError(
                f"the evaluation after step {self.state.step} came to {criterion}; "
                f"{self.checkpointer.intact()}. Look at the held-out samples, or begin another "
                "run, in another 'out', with a lower optimiser.rate"
            )
        better = judge(self.state, criterion, self.spec.patience)
        line = {"loss": figures.loss, **means, "parts": figures.parts, "criterion": criterion}
        clock = {"seconds": round(time.perf_counter() - started, 3)}
        line |= {"best": better, "units": figures.counts, "clock": clock}
        self.progress.tell("evaluation", self.state.step, line)
        return better and self.spec.patience is not None

    def _tell_broken(self, broken: BadSample) -> None:
        """Enter a broken sample, or one that was cut off, in the log, with the step it is for."""
        told = {"id": broken.id, "reason": broken.reason}
        self.progress.tell("cut" if broken.cut else "broken", self.reading_step, told)

    def _launch(self) -> dict[str, Any]:
        """Describe this call for the log."""
        return {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]] if sys.argv else [],
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "threads": torch.get_num_threads(),
            "steps": self.optimiser_step.total,
            "parameters": sum(p.numel() for p in self.optimiser_step.module.parameters()),
            "twigkit": version("twigkit"),
            "torch": torch.__version__,
            "transformers": version("transformers"),
        }
