"""Parameters and moments, whole, whether one process holds them or several a slice each."""

from __future__ import annotations

import multiprocessing
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn

from twigkit import TrainingError
from twigkit.training.checkpointing.sharded_state import (
    gather,
    gather_parameters,
    spread,
    trained_names,
)


class Pair(nn.Module):
    """A frozen and a trained part, and one that the twig does not have."""

    def __init__(self, twig):
        super().__init__()
        self.twig, self.scale = twig, nn.Parameter(torch.ones(3))

    def forward(self, features):
        return self.twig(features) * self.scale


def pair():
    torch.manual_seed(0)
    twig = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    twig[0].requires_grad_(False)
    return Pair(twig), twig


def learn(module, optimiser, steps):
    for step in steps:
        features = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        module(features).square().sum().backward()
        optimiser.step()


def adamw(module):
    return torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 0.01)


def test_names_are_the_twigs():
    assert trained_names(*pair()) == {
        "twig.1.weight": "1.weight",
        "twig.1.bias": "1.bias",
        "scale": "objective.scale",
    }
    module, twig = pair()
    with pytest.raises(TrainingError, match="the objective trains nothing"):
        trained_names(module.requires_grad_(False), twig)
    module.scale.requires_grad_(True)
    with pytest.raises(TrainingError, match="trains only parameters of its own"):
        trained_names(module, twig)


def test_what_was_gathered_goes_on_as_if_nothing_had_been():
    module, twig = pair()
    names, optimiser = trained_names(module, twig), adamw(module)
    learn(module, optimiser, range(3))
    held = {name: tensor.clone() for name, tensor in gather(module, optimiser, names).items()}
    assert set(held) == {
        f"{kind}.{name}" for kind in ("parameter", "first", "second") for name in names.values()
    }
    learn(module, optimiser, range(3, 6))
    expected = gather_parameters(module, names)
    fresh, twig = pair()
    optimiser = adamw(fresh)
    spread(fresh, optimiser, names, held, 3)
    learn(fresh, optimiser, range(3, 6))
    for name, tensor in gather_parameters(fresh, names).items():
        assert torch.equal(tensor, expected[name])
    assert held["first.1.bias"].abs().sum() > 0  # what was handed over is not changed
    learn(fresh, optimiser, range(1))
    assert not torch.equal(gather(fresh, optimiser, names)["first.1.bias"], held["first.1.bias"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda held: held.pop("first.1.bias"), "first.1.bias is missing"),
        (lambda held: held.update({"parameter.9": torch.ones(1)}), "parameter.9 is not trained"),
        (
            lambda held: held.update({"second.1.bias": torch.ones(4)}),
            r"second.1.bias has shape \[4\], expected \[3\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_named(change, told):
    module, twig = pair()
    names, optimiser = trained_names(module, twig), adamw(module)
    learn(module, optimiser, range(1))
    held = dict(gather(module, optimiser, names))
    change(held)
    fresh, _ = pair()
    with pytest.raises(TrainingError, match=told):
        spread(fresh, adamw(fresh), names, held, 1)


def wrap(kind, module):
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(module)
    from torch.distributed.fsdp import fully_shard

    return fully_shard(module)


def share(rank, port, kind, folder):
    """Go on from what one process gathered, and gather after three more steps."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    module, twig = pair()
    names = trained_names(module, twig)
    module = wrap(kind, module)
    optimiser = adamw(module)
    held = load_file(folder / "held.safetensors") if rank == 0 else {}
    spread(module, optimiser, names, held, 3)
    learn(module, optimiser, range(3, 6))
    found = gather(module, optimiser, names)
    if rank == 0:
        save_file({n: t.clone() for n, t in found.items()}, folder / f"{kind}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_take_over_from_one(tmp_path, kind):
    module, twig = pair()
    names, optimiser = trained_names(module, twig), adamw(module)
    learn(module, optimiser, range(3))
    held = {name: tensor.clone() for name, tensor in gather(module, optimiser, names).items()}
    save_file(held, tmp_path / "held.safetensors")
    learn(module, optimiser, range(3, 6))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.toy_training"])
    ranks = [context.Process(target=share, args=(rank, port, kind, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    found = load_file(tmp_path / f"{kind}.safetensors")
    expected = gather(module, optimiser, names)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)
