"""A tiny model whose steps are captured by the recorder, and prompts for it."""

from __future__ import annotations

import contextlib

from tests.support.tiny import llava_inputs, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.generation.batch_pool import BatchPool
from twigkit.testing import CaptureRecorder

HEADS = {name: {"kind": name} for name in ("lm", "medusa", "pruning")}
BATCH = llava_inputs([(3, 1, 5), (6, 2, 2), (1, 0, 9)])
ALONE = llava_inputs([(3, 1, 5)])
OTHER = llava_inputs([(6, 2, 2)])


class Runners(list):
    """Makes capture recorders and keeps them."""

    def __call__(self, device):
        self.append(CaptureRecorder())
        return self[-1]

    @property
    def captured(self):
        return sum(runner.captured for runner in self)

    @property
    def replays(self):
        return sum(runner.replays for runner in self)


def capturing_model():
    """A tiny model with a twig."""
    model = TwigModel(tiny_llava())
    model.grow(TwigSpec(base="tiny", exit_layer=2, depth=3, heads=HEADS)).eval()
    return model


@contextlib.contextmanager
def recorded(model):
    """Let the recorder capture a model's steps for a while."""
    runners = Runners()
    model.batches = BatchPool("on", make_runner=runners)
    yield runners
    model.batches = BatchPool()


def both(model, **options):
    """The tokens of the steps as they are, and of captured ones."""
    pool = model.batches
    model.batches = BatchPool("off")
    want = model.generate(**options)
    model.batches = pool
    return want, model.generate(**options)
