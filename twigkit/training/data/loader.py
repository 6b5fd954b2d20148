"""Deals batches out: the same ones for any number of processes, workers and interruptions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from twigkit.errors import TrainingError
from twigkit.io.processors import load_processor
from twigkit.learning.batch import Batch
from twigkit.training.data.bad_samples import BadSamples
from twigkit.training.data.collate import FailedBatch, MicroBatches, MicroBatchIndices
from twigkit.training.data.encoding import Encoder, encoder_for
from twigkit.training.data.sampler import Array, draw_some, epoch_order, evaluation_order, hold_out
from twigkit.training.data.sources import Reader, SampleSource, open_source
from twigkit.training.data.workers import no_alarm, worker_deaths
from twigkit.training.spec import TrainingSpec

MOST_REPEATS = 100
"""How often a batch may hold each sample: more is a slip, and takes as long as many epochs."""


class Loader:
    """Batches of one set of samples for one process.

    Attributes:
        samples: Distinct samples.
        steps_per_epoch: Optimiser steps of a pass over them.
    """

    def __init__(
        self,
        reader: Reader,
        encoder: Encoder,
        indices: Array,
        bad_samples: BadSamples,
        *,
        batch: int,
        micro_batch: int,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        group: bool = True,
    ) -> None:
        """Prepare to deal out.

        Args:
            reader: Reads the samples.
            encoder: Makes batches of them.
            indices: Which of the reader's samples.
            bad_samples: Where broken ones are entered.
            batch: Samples per optimiser step, over all processes.
            micro_batch: Samples that run together in a process.
            seed: Of the order.
            process: Which process this is, from 0.
            processes: How many there are.
            workers: Processes that prepare batches ahead; 0 prepares them when asked.
            group: Whether samples of similar length come together.

        Raises:
            TrainingError: If the batch cannot be shared evenly, or is far larger than the samples
                are many.
        """
        if batch % (micro_batch * processes):
            near = micro_batch * processes
            raise TrainingError(
                f"a batch of {batch} cannot be dealt out as micro-batches of {micro_batch} to "
                f"{processes} process{'es' * (processes > 1)} evenly; a multiple of {near} can, "
                f"such as {max(near, batch // near * near)} or {(batch // near + 1) * near}"
            )
        if batch > MOST_REPEATS * len(indices):
            raise TrainingError(
                f"a batch of {batch:,} would hold each of the {len(indices):,} samples about "
                f"{batch // max(len(indices), 1):,} times, more than {MOST_REPEATS}; make it "
                "smaller, or give more samples"
            )
        self.samples = len(indices)
        self.steps_per_epoch = -(-len(indices) // batch)
        self.pieces = batch // micro_batch
        self._indices, self._bad_samples = indices, bad_samples
        self._batch, self._micro_batch, self._seed = batch, micro_batch, seed
        self._process, self._processes, self._workers = process, processes, workers
        lengths = reader.lengths() if group else None
        self._lengths = None if lengths is None else lengths[indices]
        self._data = MicroBatches(reader, encoder, indices, seed)
        self._order: tuple[int, Array] | None = None

    def number(self, step: int, place: int) -> int:
        """Number a micro-batch of this process through the run, whatever the processes.

        Args:
            step: Optimiser step.
            place: Which of the process's micro-batches of that step, from 0.

        Returns:
            Its number among all micro-batches of all processes.
        """
        return step * self.pieces + place * self._processes + self._process

    def steps(self, start: int = 0) -> Iterator[list[Batch]]:
        """Give this process's micro-batches, step after step, without end.

        Args:
            start: First step; nothing before it is read.

        Yields:
            The micro-batches of a step, as many in every process.

        Raises:
            TrainingError: If too many samples are broken, or a worker dies.
        """
        batches = self._run(self._from(start))
        while True:
            yield [next(batches) for _ in range(self.pieces // self._processes)]

    def make(self, step: int, place: int) -> Batch:
        """Make one micro-batch of this process at once, for measurements and checks.

        Args:
            step: Optimiser step.
            place: Which of the process's micro-batches of that step.

        Returns:
            The batch.

        Raises:
            TrainingError: If too many samples are broken.
        """
        return self._checked(self._data[self._piece(step, place)])

    def once(self) -> Iterator[Batch]:
        """Give this process's share of the samples, each once and always in the same order.

        Yields:
            Batches, as many in every process.

        Raises:
            TrainingError: If there are fewer samples than processes, too many are broken, or a
                worker dies.
        """
        cut = evaluation_order(self._indices, self._lengths, self._micro_batch, self._processes)
        mine = range(self._process, len(cut), self._processes)
        yield from self._run([MicroBatchIndices(0, tuple(cut[number].tolist())) for number in mine])

    def _from(self, start: int) -> Iterator[MicroBatchIndices]:
        """Name the micro-batches of this process from a step on."""
        for step in count(start):
            for place in range(self.pieces // self._processes):
                yield self._piece(step, place)

    def _piece(self, step: int, place: int) -> MicroBatchIndices:
        """Name one micro-batch of this process."""
        epoch, within = divmod(step, self.steps_per_epoch)
        chosen = self._epoch(epoch)[within, place * self._processes + self._process]
        return MicroBatchIndices(epoch + 1, tuple(chosen.tolist()))

    def _epoch(self, epoch: int) -> Array:
        """Return the order of an epoch, remembered until the next one."""
        if self._order is None or self._order[0] != epoch:
            order = epoch_order(
                self._indices,
                self._lengths,
                batch=self._batch,
                micro_batch=self._micro_batch,
                seed=self._seed,
                epoch=epoch,
            )
            self._order = (epoch, order)
        return self._order[1]

    def _run(self, pieces: Iterable[MicroBatchIndices]) -> Iterator[Batch]:
        """Prepare micro-batches, ahead of time if there are workers."""
        # Anything with `[]` serves as a dataset; torch's own annotations ask for its base class.
        pieces_by_index: Any = self._data
        loader: DataLoader[Any] = DataLoader(
            pieces_by_index,
            batch_size=None,
            sampler=pieces,
            num_workers=self._workers,
            pin_memory=torch.cuda.is_available(),
            # Of its own, since it would draw from torch's generator, on which a run may depend.
            generator=torch.Generator(),
        )
        with worker_deaths(ConnectionError, EOFError):
            with no_alarm():
                batches = iter(loader)
            for made in batches:
                yield self._checked(made)

    def _checked(self, made: Batch | FailedBatch) -> Batch:
        """Enter what was broken, and raise what a worker could not."""
        if isinstance(made, FailedBatch):
            raise TrainingError(made.message)
        self._bad_samples.add(made.broken)
        return made


@dataclass
class Data:
    """What a run trains on and is evaluated on.

    Attributes:
        train: Batches to train on.
        evaluation: Batches to evaluate on, if the spec asks for any.
        bad_samples: The broken samples of both.
        digests: What stands for the records, some of their pictures and the chat template, by what
            they are of, so that a run goes on only with the same.
    """

    train: Loader
    evaluation: Loader | None
    bad_samples: BadSamples
    digests: dict[str, str] = field(default_factory=dict)


def open_data(
    spec: TrainingSpec,
    base: Any,
    *,
    dataset: SampleSource | None = None,
    processor: Any = None,
    process: int = 0,
    processes: int = 1,
    allow_sources: Collection[str] = (),
) -> Data:
    """Open the samples that a spec names.

    Args:
        spec: The run.
        base: The loaded base model.
        dataset: SampleSource in place of those that the spec names.
        processor: The base's processor; ``None`` loads it from where the base came from.
        process: Which process this is, from 0.
        processes: How many there are.
        allow_sources: Factories, ``package.module:factory``, that the spec may name besides those
            that installed packages declare.

    Returns:
        Loaders for training and evaluation.

    Raises:
        TwigkitError: If the samples, the processor or the template cannot be used, or the batch
            cannot be shared.
    """
    data = spec.data
    if processor is None:
        processor = _load_processor(spec, base)
    encoder = encoder_for(base, data, processor)
    reader = (
        open_source(data, allow_sources=allow_sources)
        if dataset is None
        else Reader(dataset, frames=data.frames)
    )
    other = None
    if isinstance(data.evaluation, str):
        other = open_source(data, data.evaluation, allow_sources=allow_sources)
        chosen, aside = np.arange(len(reader)), np.arange(len(other))
    else:
        chosen, aside = hold_out(len(reader), data.evaluation)
    chosen = draw_some(chosen, data.samples, spec.seed)
    total, most = len(chosen) + len(aside), data.most_broken
    bad_samples = BadSamples(most if isinstance(most, int) else int(most * total), total)
    shared: dict[str, Any] = {"process": process, "processes": processes, "group": data.group}
    shared |= {"micro_batch": spec.micro_batch, "workers": data.workers}
    train = Loader(reader, encoder, chosen, bad_samples, batch=spec.batch, seed=spec.seed, **shared)
    evaluation = None
    if len(aside):
        evaluation_order(aside, None, spec.micro_batch, processes)  # too few are told before a run
        shared["batch"] = spec.micro_batch * processes
        evaluation = Loader(other or reader, encoder, aside, bad_samples, **shared)
    return Data(train, evaluation, bad_samples, _digests(reader, other, encoder))


def _load_processor(spec: TrainingSpec, base: Any) -> Any:
    """Load the base's processor from where the base came from."""
    revision = None if isinstance(spec.twig, str) or spec.base else spec.twig.revision
    source = spec.base_source or base.name_or_path
    return load_processor(
        source,
        revision=revision,
        pictures=False,
        options=spec.data.processor,
        otherwise=base.name_or_path,
    )


def _digests(reader: Reader, other: Reader | None, encoder: Encoder) -> dict[str, str]:
    """Return what stands for the records and the chat template, where it can be told."""
    found = {
        "digest of the records": reader.digest(),
        "digest of the held-out records": None if other is None else other.digest(),
        "digest of the pictures": reader.picture_digest(),
        "digest of the held-out pictures": None if other is None else other.picture_digest(),
        "digest of the chat template": encoder.renderer.digest(),
    }
    return {name: digest for name, digest in found.items() if digest is not None}
