"""Fills a micro-batch with samples; a broken one is named and another takes its place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from twigkit.errors import TwigkitError
from twigkit.learning.batch import BadSample, Batch
from twigkit.training.data.chat_template import Text
from twigkit.training.data.encoding import BrokenRowsError, Encoder
from twigkit.training.data.sample import BrokenSampleError
from twigkit.training.data.sampler import Array
from twigkit.training.data.sources import Reader

ATTEMPTS = 20
"""Samples that are tried for one place; if all are broken, the data as a whole are."""


class MicroBatchIndices(NamedTuple):
    """One micro-batch to be made.

    Attributes:
        epoch: Which pass over the samples, so that replacements differ from one to the next.
        indices: The samples.
    """

    epoch: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class FailedBatch:
    """What a worker returns for a batch that failed, since exceptions lose their class on the way.

    Attributes:
        message: What is wrong.
    """

    message: str


class MicroBatches:
    """A map-style dataset of micro-batches, for torch's data loader."""

    def __init__(self, reader: Reader, encoder: Encoder, indices: Array, seed: int) -> None:
        """Keep what makes batches.

        Args:
            reader: Reads samples.
            encoder: Encodes them.
            indices: The samples that replacements are drawn from.
            seed: Of the run.
        """
        self.reader, self.encoder, self.indices, self.seed = reader, encoder, indices, seed

    def __getitem__(self, piece: MicroBatchIndices) -> Batch | FailedBatch:
        """Make a micro-batch."""
        try:
            return self._fill(piece)
        except TwigkitError as error:
            return FailedBatch(str(error))

    def _fill(self, piece: MicroBatchIndices) -> Batch:
        """Fill every row, replace what the processor refuses, and encode the rows together."""
        broken: list[BadSample] = []
        attempts = [0] * len(piece.indices)
        rows = [self._row(piece, row, attempts, broken) for row in range(len(attempts))]
        while True:
            try:
                batch = self.encoder.batch(rows)
            except BrokenRowsError as error:
                for row, reason in error.reasons.items():
                    index = self._candidate(piece, row, attempts[row] - 1)
                    broken.append(BadSample(self.reader.name(index), reason))
                    rows[row] = self._row(piece, row, attempts, broken)
                continue
            return dataclasses.replace(batch, broken=(*broken, *batch.broken))

    def _row(
        self, piece: MicroBatchIndices, row: int, attempts: list[int], broken: list[BadSample]
    ) -> Text:
        """Read the next usable sample for a row.

        Raises:
            TwigkitError: If one after the other is broken.
        """
        while attempts[row] < ATTEMPTS:
            index = self._candidate(piece, row, attempts[row])
            attempts[row] += 1
            try:
                return self.encoder.text(self.reader.read(index))
            except BrokenSampleError as error:
                broken.append(BadSample(self.reader.name(index), str(error)))
        last = "; ".join(f"{b.id}: {b.reason}" for b in broken[-3:])
        raise TwigkitError(
            f"{ATTEMPTS} samples in a row are broken, the last ones {last}. Check the data and its "
            "folder of pictures"
        )

    def _candidate(self, piece: MicroBatchIndices, row: int, attempt: int) -> int:
        """Choose the sample that is tried for a row: its own first, then others.

        They follow from the sample that they replace, and not from its place in the batch, so that
        the number of processes changes nothing.
        """
        index = piece.indices[row]
        if attempt == 0:
            return index
        key = [self.seed, piece.epoch, index, attempt]
        return int(np.random.default_rng(key).choice(self.indices))
