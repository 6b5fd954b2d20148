"""Keeps a run: goes on from its last snapshot, writes the next, and the twig at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.tensor import DTensor

from twigkit.errors import TrainingError
from twigkit.io.files import expanded
from twigkit.model import TwigModel
from twigkit.training.checkpointing.provenance import describe_run
from twigkit.training.checkpointing.resume_check import check_same
from twigkit.training.checkpointing.sharded_state import (
    gather,
    spread,
    spread_parameters,
    whole_state,
)
from twigkit.training.checkpointing.snapshot_files import (
    FOLDER,
    RunState,
    SnapshotHeader,
    Snapshots,
    checksum,
    folder_lock,
)
from twigkit.training.loop.optimiser_step import OptimiserStep
from twigkit.training.spec import TrainingSpec
from twigkit.twig.checkpoint import write_twig
from twigkit.twig.fingerprint import fingerprint
from twigkit.twig.manifest import MANIFEST

T = TypeVar("T")


class Checkpointer:
    """What a run leaves on the disk; only the first process writes.

    Attributes:
        out: Folder of the twig.
        folder: Folder of the run.
        snapshots: The snapshots in it.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        model: TwigModel,
        optimiser_step: OptimiserStep,
        accelerator: Any,
        data: Mapping[str, Any],
    ) -> None:
        """Name the folders; nothing is made yet.

        Args:
            spec: The run.
            model: Base and twig.
            optimiser_step: Holds what is trained.
            accelerator: Accelerate's accelerator.
            data: What to say of the samples; a run goes on only with the same.
        """
        self.out = Path(expanded(spec.out))
        self.folder = self.out / FOLDER
        self.snapshots = Snapshots(self.folder, spec.keep)
        self._spec, self._model, self._optimiser_step = spec, model, optimiser_step
        self._accelerator, self._data = accelerator, dict(data)
        twig: Any = model.twig
        frozen = whole_state(twig, without=optimiser_step.names.values())
        self._run: dict[str, Any] = {
            "spec": spec.model_dump(mode="json"),
            "base": fingerprint(model.stack),
            "data": self._data,
            "frozen": checksum("", frozen),
        }

    def lock(self, held: ExitStack) -> None:
        """Keep a second run out of the folder.

        Args:
            held: Until this stack of contexts is closed.

        Raises:
            TrainingError: If another run is at work there, or the folder holds something else.
        """

        def enter() -> None:
            if self.out.is_dir() and not self.folder.exists() and any(self.out.iterdir()):
                found = "already holds a twig" if (self.out / MANIFEST).exists() else "is not empty"
                raise TrainingError(
                    f"{self.out} {found} and no training run; name a new or an empty folder as "
                    "'out'"
                )
            held.enter_context(folder_lock(self.folder))

        self.in_main(enter)

    def in_main(self, work: Callable[[], T]) -> T | None:
        """Do something in the first process; all processes learn whether it failed.

        Otherwise the others would wait for it until some timeout.

        Args:
            work: What to do.

        Returns:
            What it returned; ``None`` in other processes.

        Raises:
            TrainingError: In the other processes, if it failed; the first raises what it met.
        """
        result: T | None = None
        error: Exception | None = None
        if self._accelerator.is_main_process:
            try:
                result = work()
            except Exception as caught:
                error = caught
        if self._accelerator.num_processes > 1:
            failed = torch.tensor([error is not None], device=self._accelerator.device).int()
            if self._accelerator.reduce(failed, "sum").item() and error is None:
                raise TrainingError("the first process cannot go on; its message says why")
        if error is not None:
            raise error
        return result

    def intact(self) -> str:
        """Say what is left of the run if it fails now."""
        steps = self.snapshots.steps
        return f"the snapshot of step {steps[-1]} is intact" if steps else "there is no snapshot"

    def resume(self) -> RunState:
        """Go on from the last snapshot, or begin.

        Returns:
            Where the run stands, in every process.

        Raises:
            TrainingError: If the folder holds another run, or a twig without one.
        """
        text = [self.in_main(lambda: json.dumps(asdict(self._last())))]
        if self._accelerator.num_processes > 1:
            broadcast_object_list(text)
        state = RunState(**json.loads(text[0] or "{}"))
        if state.step:
            tensors = self.in_main(lambda: self._read(state.step)) or {}
            module, optimiser = self._optimiser_step.module, self._optimiser_step.optimiser
            spread(module, optimiser, self._optimiser_step.names, tensors, state.step)
        return state

    def _read(self, step: int) -> dict[str, Tensor]:
        """Read a snapshot; once it is known to be whole, clear away what a killed run has left."""
        tensors = self.snapshots.read(self.snapshots.path(step))
        self.snapshots.clear()
        return tensors

    def _last(self) -> RunState:
        """Read where the last snapshot stands, and make sure that it is of this run."""
        steps = self.snapshots.steps
        if steps:
            record = self.snapshots.read_header(steps[-1])
            check_same(record.run, self._run, self.folder)
            return record.state
        if (self.out / MANIFEST).exists():
            raise TrainingError(
                f"{self.out} already holds a twig, but no snapshot of its run; name another 'out', "
                "or remove it"
            )
        return RunState()

    def save(self, state: RunState, *, best: bool, before: Callable[[], None]) -> None:
        """Write a snapshot; every process must call it.

        Args:
            state: Where the run stands.
            best: Whether these are the best parameters so far, to be kept apart.
            before: What must be on the disk first, such as the log.

        Raises:
            TrainingError: If it cannot be written; earlier snapshots are intact.
        """
        optimiser_step = self._optimiser_step
        tensors = gather(optimiser_step.module, optimiser_step.optimiser, optimiser_step.names)

        def write() -> None:
            before()
            if best:
                held = {
                    name.removeprefix("parameter."): tensor
                    for name, tensor in tensors.items()
                    if name.startswith("parameter.")
                }
                self.snapshots.save_best(held, state.step)
            self.snapshots.save(tensors, SnapshotHeader(state, self._run))

        self.in_main(write)

    def export(self, state: RunState) -> int:
        """Write the twig to ``out`` and leave it in the model; every process must call it.

        Args:
            state: Where the run stands.

        Returns:
            Optimiser steps that its weights have had: those of the best evaluation if the run has
            a patience, else all.

        Raises:
            TrainingError: If it cannot be written; the snapshots are intact.
        """
        optimiser_step, step = self._optimiser_step, state.step
        if self._spec.patience is not None and state.best_step not in (None, step):
            step = state.best_step or 0
            path = self.snapshots.best_path(step)
            tensors = self.in_main(lambda: self.snapshots.read(path)) or {}
            spread_parameters(optimiser_step.module, optimiser_step.names, tensors)
        twig: Any = self._model.twig
        weights = whole_state(twig, self._accelerator.is_main_process)
        self.in_main(lambda: self._write(weights, step))
        if not any(isinstance(parameter, DTensor) for parameter in twig.parameters()):
            twig.to(self._dtype)
        twig.eval()
        return step

    @property
    def _dtype(self) -> torch.dtype:
        """Precision of the twig at rest: that of the base's states."""
        return self._model.stack.dtype

    def _write(self, state: Mapping[str, Tensor], step: int) -> None:
        """Write the twig's files."""
        twig: Any = self._model.twig
        provenance = describe_run(
            self._spec,
            processes=self._accelerator.num_processes,
            device=self._accelerator.device,
            data=self._data,
            step=step,
        )
        note = f"Trained for {step} steps by {self._spec.objective.kind}; see twig.json."
        try:
            write_twig(
                twig,
                self._model.stack,
                self.out,
                note=note,
                provenance=provenance,
                state={
                    name: tensor.to(self._dtype) if tensor.is_floating_point() else tensor
                    for name, tensor in state.items()
                },
            )
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"cannot write the twig to {self.out}: {error}. Make room or mend the folder, "
                f"then give the same command again; {self.intact()}"
            ) from error
