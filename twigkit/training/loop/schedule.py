"""What a step depends on besides the weights and the samples: its learning rate and its seeds.

Both are functions of the step alone. Nothing has to be remembered of them, so a run that was cut
off goes on with the same rates and the same random numbers.
"""

from __future__ import annotations

import hashlib
import math

from twigkit.training.spec import OptimiserSpec


def rate_at(step: int, steps: int, spec: OptimiserSpec) -> float:
    """Return the learning rate of a step.

    Args:
        step: The step, from 0.
        steps: Steps of the whole run.
        spec: Peak, warm-up, and how the rate falls after it.

    Returns:
        A rate above zero: it rises linearly to the peak, which the last step of the warm-up has,
        and falls to the floor, which the step after the last would have.
    """
    rising = warmup_steps(steps, spec)
    if step < rising:
        return spec.rate * (step + 1) / rising
    if spec.schedule == "constant":
        return spec.rate
    turn = min(1.0, (step - rising) / max(1, steps - rising))
    share = 1.0 - turn if spec.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * turn))
    return spec.rate * (spec.floor + (1.0 - spec.floor) * share)


def warmup_steps(steps: int, spec: OptimiserSpec) -> int:
    """Return the number of steps over which the rate rises, all of them at most."""
    if isinstance(spec.warmup, int):
        return min(steps, spec.warmup)
    return math.ceil(spec.warmup * steps)


def call_seed(seed: int, *place: int | str) -> int:
    """Derive the seed of one call.

    Args:
        seed: Of the run.
        *place: What tells the call from all others, such as step and micro-batch.

    Returns:
        A number of 63 bits; equal places give equal seeds, and near ones unrelated seeds.
    """
    text = "/".join(map(str, (seed, *place)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
