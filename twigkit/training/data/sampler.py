"""In which order samples are trained on: a function of the seed and the epoch, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from twigkit.errors import TrainingError

Array = np.ndarray[Any, Any]

WINDOW = 32
"""Batches whose samples are sorted by length together; wider pads less and mixes less."""


def epoch_order(
    indices: Array,
    lengths: Array | None,
    *,
    batch: int,
    micro_batch: int,
    seed: int,
    epoch: int,
) -> Array:
    """Deal the samples of an epoch out to batches.

    Samples are shuffled. If their lengths are known, those of similar length come together in a
    micro-batch, while a batch is a mixture of micro-batches of all lengths, sorted by length so
    that processes that work side by side have about as much to do. The last batch is filled up with
    samples of the epoch drawn again.

    Args:
        indices: Numbers of the samples, ``[samples]``.
        lengths: Their lengths, in any unit; ``None`` groups nothing.
        batch: Samples per optimiser step.
        micro_batch: Samples that run together; divides ``batch``.
        seed: Of the run.
        epoch: Which pass over the samples, from 0.

    Returns:
        Numbers of samples, ``[steps, micro-batches, samples]``.
    """
    random = np.random.default_rng([seed, epoch])
    count = len(indices)
    steps = -(-count // batch)
    rounds = [random.permutation(count) for _ in range(-(-steps * batch // count))]
    places = np.concatenate(rounds)[: steps * batch]
    pieces = places.reshape(-1, micro_batch)
    if lengths is not None:
        wide = WINDOW * batch
        windows = [places[start : start + wide] for start in range(0, len(places), wide)]
        pieces = np.concatenate([_grouped(w, lengths, micro_batch, random) for w in windows])
    dealt = pieces.reshape(steps, batch // micro_batch, micro_batch)
    if lengths is not None:
        order = np.argsort(lengths[dealt].sum(axis=2), axis=1, kind="stable")
        dealt = np.take_along_axis(dealt, order[:, :, None], axis=1)
    return np.asarray(indices)[dealt]


def _grouped(places: Array, lengths: Array, micro_batch: int, random: np.random.Generator) -> Array:
    """Cut a window into micro-batches of similar length, in random order."""
    ordered = places[np.argsort(lengths[places], kind="stable")].reshape(-1, micro_batch)
    return ordered[random.permutation(len(ordered))]


def hold_out(count: int, amount: int | float | None) -> tuple[Array, Array]:
    """Set samples aside for evaluation, the same ones whatever the seed of the run.

    Args:
        count: Samples in all.
        amount: How many: a count, a fraction, or none.

    Returns:
        Numbers of the samples to train on and of those set aside, both ascending.

    Raises:
        TrainingError: If nothing is left to train on.
    """
    every = np.arange(count)
    if amount is None:
        return every, every[:0]
    wanted = amount if isinstance(amount, int) else max(1, round(amount * count))
    if wanted >= count:
        raise TrainingError(
            f"data.evaluation sets {wanted} of {count} samples aside, which leaves none to train "
            "on; set fewer aside"
        )
    aside = np.sort(np.random.default_rng(count).permutation(count)[:wanted])
    return np.setdiff1d(every, aside), aside


def draw_some(indices: Array, amount: int | float | None, seed: int) -> Array:
    """Draw the samples that are used.

    Args:
        indices: Numbers of the samples.
        amount: How many: a count, a fraction, or all.
        seed: Of the run.

    Returns:
        Numbers of the samples drawn, ascending.

    Raises:
        TrainingError: If more are asked for than there are.
    """
    if amount is None:
        return indices
    wanted = amount if isinstance(amount, int) else max(1, round(amount * len(indices)))
    if wanted > len(indices):
        raise TrainingError(
            f"data.samples asks for {wanted} samples, but there are {len(indices)} to train on; "
            "ask for fewer"
        )
    drawn = np.random.default_rng([seed, len(indices)]).permutation(indices)[:wanted]
    return np.sort(drawn)


def evaluation_order(
    indices: Array, lengths: Array | None, micro_batch: int, processes: int
) -> list[Array]:
    """Cut samples into micro-batches, as many for each process, each sample once.

    Args:
        indices: Numbers of the samples.
        lengths: Their lengths; similar ones come together.
        micro_batch: Samples that run together, at most one more where the cut asks for it.
        processes: How many processes share them.

    Returns:
        The micro-batches; process ``p`` takes those at ``p``, ``p + processes`` and so on.

    Raises:
        TrainingError: If there are fewer samples than processes.
    """
    count = len(indices)
    if count < processes:
        raise TrainingError(
            f"{count} samples to evaluate on for {processes} processes; set at least one for each "
            "aside with data.evaluation"
        )
    rounds = max(1, min(-(-count // (micro_batch * processes)), count // processes))
    if lengths is not None:
        indices = indices[np.argsort(lengths, kind="stable")]
    return np.array_split(indices, rounds * processes)
