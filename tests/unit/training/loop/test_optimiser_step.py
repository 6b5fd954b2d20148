"""Optimiser steps of several processes hold their gradients once."""

import pytest
import torch
from accelerate import Accelerator
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tests.support.toy_training import toy_spec, toy_training
from twigkit.training import setup as starting


class Wrapping(Accelerator):
    """Wraps one process's module as accelerate does that of several."""

    def prepare(self, module, optimiser):
        return DistributedDataParallel(module, **self.ddp_handler.to_kwargs()), optimiser


@pytest.fixture
def group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_gradients_lie_in_what_crosses_the_processes(group, tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "Accelerator", Wrapping)
    training = toy_training(toy_spec(tmp_path / "twig"))
    loader = training.data.train
    for step, batches in zip(range(3), loader.steps(), strict=False):
        numbers = [loader.number(step, place) for place in range(len(batches))]
        training.optimiser_step.take(step, batches, numbers, lambda: "")
    grads = [p.grad for p in training.optimiser_step.module.parameters() if p.requires_grad]
    assert isinstance(training.optimiser_step.module, DistributedDataParallel)
    assert len(grads) > 1
    assert all(torch.count_nonzero(grad) == 0 for grad in grads), "cleared, and still there"
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == 1, "in one bucket"
