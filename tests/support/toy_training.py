"""A training run that takes milliseconds: drawn features, a twig's norm and head, drawn labels."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import fully_shard

from tests.support.tiny import tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.interfaces.objective import LossTerm, Objective
from twigkit.learning.batch import IGNORED, Batch
from twigkit.training import setup as starting
from twigkit.training.checkpointing import snapshot_files as snapshot
from twigkit.training.setup import accelerator_for
from twigkit.training.spec import TrainingSpec
from twigkit.training.trainer import Training

WIDTH, WORDS = 64, 100


class ToyObjective(Objective):
    """Fits the labels from noisy features; a second part keeps the rows' states small."""

    def __init__(self, model: TwigModel) -> None:
        super().__init__(None, model.stack, model.twig)
        self.noise = 0.1
        self.trained = model.twig.requires_grad_(False)
        self.twig.norm.requires_grad_(True)
        self.twig.heads.requires_grad_(True)

    def forward(self, batch, progress, seed):
        generator = torch.Generator().manual_seed(seed)
        features = batch.inputs["features"]
        noise = torch.randn(features.shape, generator=generator)
        states = self.twig.norm(features + self.noise * noise)
        logits = self.twig.heads["lm"](states).float()
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        right = ((logits.argmax(-1) == batch.labels) & (batch.labels != IGNORED)).sum()
        size = states.square().mean((1, 2)).sum()
        parts = {"fit": LossTerm(loss, "tokens", 1.0), "size": LossTerm(size, "samples", 0.01)}
        return parts, {"right/tokens": float(right), "progress/samples": progress * len(batch.ids)}


@dataclass
class ToyBadSamples:
    broken: dict = field(default_factory=dict)
    report: object = None
    share: object = None
    cut: set = field(default_factory=set)


@dataclass
class ToyLoader:
    """Micro-batches by number, with very different counts of answer tokens.

    Attributes:
        poison: Number of a micro-batch whose features are not numbers.
        fault: Called with the number of every micro-batch.
    """

    pieces: int = 4
    process: int = 0
    processes: int = 1
    rows: int = 2
    samples: int = 16
    poison: int = -1
    fault: object = None

    def number(self, step, place):
        return step * self.pieces + place * self.processes + self.process

    def batch(self, number):
        if self.fault is not None:
            self.fault(number)
        random = torch.Generator().manual_seed(number)
        features = torch.randn(self.rows, 12, WIDTH, generator=random)
        labels = (features[..., :10].argmax(-1) * 7) % WORDS
        for row in range(self.rows):
            labels[row, : int(torch.randint(12, (1,), generator=random))] = IGNORED
        if number == self.poison:
            features[0, 0, 0] = float("nan")
        ids = [f"sample-{number}-{row}" for row in range(self.rows)]
        return Batch({"features": features}, labels, [[]] * self.rows, ids)

    def steps(self, start=0):
        step = start
        while True:
            places = range(self.pieces // self.processes)
            yield [self.batch(self.number(step, place)) for place in places]
            step += 1

    def once(self):
        for place in range(2 // self.processes):
            yield self.batch(10_000 + place * self.processes + self.process)


@dataclass
class ToyData:
    train: ToyLoader
    evaluation: ToyLoader | None
    bad_samples: ToyBadSamples = field(default_factory=ToyBadSamples)
    digests: dict[str, str] = field(default_factory=dict)


def toy_model(seed: int = 0) -> TwigModel:
    """A base of two layers with a twig of one."""
    model = TwigModel(tiny_llava(layers=2, seed=seed))
    model.grow(TwigSpec(base="tiny", exit_layer=1, depth=1))
    return model


def toy_spec(out: object, **changes: object) -> TrainingSpec:
    """Twelve steps with everything that a run can do."""
    settings = {
        "twig": {"base": "tiny", "exit_layer": 1, "depth": 1},
        "data": {"path": "toy", "evaluation": 2},
        "optimiser": {"rate": 0.02, "warmup": 3},
        "precision": "fp32",
        "batch": 8,
        "micro_batch": 2,
        "steps": 12,
        "evaluate_every": 4,
        "patience": 9,
        "save_every": 3,
        "log_every": 2,
        "out": str(out),
        **changes,
    }
    return TrainingSpec.parse(settings)


def toy_training(spec: TrainingSpec, model: TwigModel | None = None, **faults: object) -> Training:
    """Put a toy run together.

    Args:
        spec: The run.
        model: Base and twig.
        **faults: For the :class:`ToyLoader` that is trained on.
    """
    model = model or toy_model()
    accelerator = accelerator_for(spec, model)
    share = {"process": accelerator.process_index, "processes": accelerator.num_processes}
    held = ToyLoader(**share) if spec.data.evaluation else None
    data = ToyData(ToyLoader(**share, **faults), held)
    return Training(spec, model, ToyObjective(model), data, accelerator, show=False)


def run_toy(out: str, death: str = "", count: int = 0, changes: dict | None = None) -> None:
    """Run in a process of its own, which may be made to die by its own hand.

    Args:
        out: Folder of the run.
        death: What the process is about to do when it dies.
        count: How often it has done so before.
        changes: To the spec.
    """
    torch.set_num_threads(1)
    if death:
        _arm(death, count)
    toy_training(toy_spec(out, **(changes or {}))).run()


def run_toy_rank(
    rank: int,
    world: int,
    port: int,
    out: str,
    wrapper: str = "ddp",
    death: str = "",
    count: int = 0,
) -> None:
    """Run one of several processes.

    Args:
        rank: Which one.
        world: How many there are.
        port: Of the first one.
        out: Folder of the run.
        wrapper: ``"ddp"`` or ``"fsdp2"``.
        death: What the process is about to do when it dies.
        count: How often it has done so before.
    """
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    if wrapper == "fsdp2":
        starting.Accelerator = ShardingAccelerator
    run_toy(out, death, count)


class ShardingAccelerator(Accelerator):
    """Does on CPUs what accelerate does on GPUs alone: wraps with FSDP2."""

    def prepare(self, module, optimiser):
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        groups = [
            {**group, "params": [names[id(parameter)] for parameter in group["params"]]}
            for group in optimiser.param_groups
        ]
        fully_shard(module)
        sharded = dict(module.named_parameters())
        for group in groups:
            group["params"] = [sharded[name] for name in group["params"]]
        return module, torch.optim.AdamW(groups)

    @contextmanager
    def no_sync(self, module):
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)


def _arm(death: str, count: int) -> None:
    """Make the process kill itself at a place, leaving behind what is there at that moment."""
    left = [count]

    def die() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    if death == "half a file":
        whole = snapshot.save_file

        def half(tensors, path, **options):
            if left[0] == 0:
                whole(tensors, path, **options)
                Path(path).write_bytes(Path(path).read_bytes()[:-1000])
            die()
            whole(tensors, path, **options)

        snapshot.save_file = half
    elif death in ("replace", "fsync"):
        real = getattr(os, death)

        def deadly(*args, **options):
            die()
            return real(*args, **options)

        setattr(os, death, deadly)
    elif death == "clear":
        cleared = snapshot.Snapshots.clear

        def clear(self):
            die()
            cleared(self)

        snapshot.Snapshots.clear = clear
    elif death == "step":
        stepped = torch.optim.AdamW.step

        def step(self, *args, **options):
            stepped(self, *args, **options)
            die()

        torch.optim.AdamW.step = step
    else:
        raise ValueError(death)
