"""What a training run is: the twig, the data, the objective and how it is optimised.

One file holds all of it, trains, resumes and travels in the checkpoint. Nothing here needs torch.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    field_validator,
    model_validator,
)

from twigkit.specs.base import Spec, problem
from twigkit.specs.run import (
    CountOrFraction,
    ObjectiveField,
    ObjectiveSpec,
    TwigField,
    TwigSpec,
)
from twigkit.specs.runtime import RuntimeSpec

__all__ = ["DataSpec", "OptimiserSpec", "TrainingSpec", "example"]

DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A factory by name, ``package.module:factory``."""

READERS = ("conversations", "datasets")
"""Sources that twigkit reads itself; any other is a factory by name."""


def _limit(value: object) -> object:
    """Refuse what is neither a count from 0 nor a fraction from 0.0 to 1.0."""
    count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not (count or (isinstance(value, float) and 0.0 <= value <= 1.0)):
        raise problem(
            f"got {value!r}; expected a whole number of at least 0 (a count), or a number with a "
            "decimal point from 0.0 to 1.0 (a fraction of the samples)"
        )
    return value


Limit = Annotated[
    Annotated[StrictInt, Field(ge=0)] | Annotated[StrictFloat, Field(ge=0.0, le=1.0)],
    BeforeValidator(_limit),
]
"""A count as a whole number, or a fraction as a number with a decimal point; zero is allowed."""


def _count_fraction_or_file(value: object) -> str:
    """Tell a file from an amount, so that problems name one of them only."""
    return "=file" if isinstance(value, str) else "=amount"


HeldOut = Annotated[
    Annotated[CountOrFraction, Tag("=amount")]
    | Annotated[StrictStr, Field(min_length=1), Tag("=file")],
    Discriminator(_count_fraction_or_file),
]
"""A count, a fraction, a file of the same format, or None."""


class DataSpec(Spec):
    """Where the samples come from and how they are dealt out."""

    source: str = Field(
        "conversations",
        description="'conversations' (turns in JSON or JSONL beside a folder of pictures), "
        "'datasets' (Hugging Face datasets), or 'package.module:factory' of a function that "
        "returns a sequence of samples, which an installed package declares or the user allows.",
    )
    path: str | None = Field(
        None, min_length=1, description="The file, or the name or folder of the dataset."
    )
    images: str | None = Field(
        None,
        min_length=1,
        description="Folder that picture and video paths start from; None for the file's own.",
    )
    split: str = Field("train", min_length=1, description="Split of a dataset.")
    subset: str | None = Field(None, min_length=1, description="Configuration of a dataset.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Arguments of the factory."
    )
    samples: CountOrFraction = Field(
        None, description="How many samples to use, drawn by the seed; None for all."
    )
    evaluation: HeldOut = Field(
        None,
        description="What is evaluated on: a count or fraction of the samples, which are then "
        "never trained on, or a file of the same format; None evaluates nothing.",
    )
    most_broken: Limit = Field(
        0.001,
        description="How many samples may be broken, as a count or a fraction of them, before it "
        "is an error. Each is reported with its id and replaced by another one.",
    )
    longest: int = Field(
        2048,
        ge=8,
        description="Most tokens of a sample, visual ones included; what lies beyond is cut off. A "
        "sample is broken if no answer begins before that, or a picture lies beyond.",
    )
    videos: Literal["video", "images"] = Field(
        "video",
        description="How the base takes a video: as a video, or as one picture per frame.",
    )
    frames: int = Field(
        8, ge=1, le=1024, description="Most frames of a video, spread evenly over it."
    )
    template: str | None = Field(
        None, min_length=1, description="File of a chat template; None for the base's own."
    )
    processor: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Settings of the base's processor that differ from its own, such as size.",
    )
    group: bool = Field(
        True, description="Whether samples of similar length share a micro-batch, to pad less."
    )
    workers: int = Field(
        2, ge=0, le=128, description="Processes per training process that prepare samples."
    )

    @field_validator("source")
    @classmethod
    def _known_source(cls, value: str) -> str:
        """Refuse a source that is neither read nor a factory."""
        if value not in READERS and not DOTTED.fullmatch(value):
            raise problem(
                f"got {value!r}; expected {', '.join(map(repr, READERS))} or a factory as "
                "'package.module:factory'"
            )
        return value

    @model_validator(mode="after")
    def _fits_the_source(self) -> Self:
        """Refuse a source that needs a path and has none, or takes no options and has some."""
        if self.source in READERS and self.path is None:
            raise problem(f"the source {self.source!r} needs 'path'; name the file or dataset")
        if self.source in READERS and self.options:
            raise problem(
                f"the source {self.source!r} takes no 'options', and {sorted(self.options)} were "
                "given; they are arguments of a 'package.module:factory'"
            )
        return self


class OptimiserSpec(Spec):
    """AdamW and its schedule; the defaults are stage 1 of the paper."""

    rate: float = Field(
        1e-4, gt=0.0, le=1.0, description="Peak learning rate (the paper's stage 2: 2e-5)."
    )
    betas: tuple[
        Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]
    ] = Field((0.9, 0.98), description="Decay of the first and second moments.")
    epsilon: float = Field(1e-8, gt=0.0, le=1e-2, description="Added to the second moment's root.")
    decay: float = Field(0.0, ge=0.0, le=1.0, description="Weight decay.")
    clip: float | None = Field(
        1.0, gt=0.0, description="Largest norm of a step's gradient; None clips nothing."
    )
    warmup: Limit = Field(
        0.03, description="Steps of the linear warm-up: a count, or a fraction of all steps."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the rate falls after the warm-up."
    )
    floor: float = Field(
        0.0, ge=0.0, le=1.0, description="Rate at the end, as a share of the peak."
    )


class TrainingSpec(Spec):
    """One file that says all of a training run."""

    twig: TwigField = Field(
        description="A twig to grow, or folder or Hub id of one to go on from.",
    )
    base: str | None = Field(
        None,
        min_length=1,
        description="Folder or Hub id from which the base is loaded; None for the one that the "
        "twig names.",
    )
    data: DataSpec = Field(description="The samples.")
    objective: ObjectiveField = Field(
        default_factory=lambda: ObjectiveSpec(kind="distillation"),
        validate_default=True,
        description="What is learnt, such as 'distillation' (stage 1) or 'reinforcement' (stage "
        "2).",
    )
    optimiser: OptimiserSpec = Field(
        default_factory=OptimiserSpec, description="How the weights move."
    )
    runtime: RuntimeSpec = Field(default_factory=RuntimeSpec, description="How the base is loaded.")
    precision: Literal["fp32", "bf16"] = Field(
        "bf16",
        description="Arithmetic of the trained layers; their weights and moments stay in fp32.",
    )
    batch: int = Field(
        128, ge=1, description="Samples per optimiser step, over all processes together."
    )
    micro_batch: int = Field(
        1, ge=1, description="Samples that run through a process at a time; divides the batch."
    )
    epochs: float = Field(1.0, gt=0.0, description="Passes over the samples.")
    steps: int | None = Field(
        None, ge=1, description="Optimiser steps, in place of epochs; None counts epochs."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of everything that is random.")
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between evaluations; None evaluates at the end only."
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Evaluations without a better loss after which training stops early; None "
        "never does.",
    )
    save_every: int = Field(100, ge=1, description="Steps between checkpoints to resume from.")
    keep: int = Field(2, ge=1, description="Checkpoints to resume from that are kept.")
    log_every: int = Field(10, ge=1, description="Steps between lines of the log.")
    trackers: tuple[str, ...] = Field(
        (), description="Trackers of accelerate that the log goes to as well, such as tensorboard."
    )
    out: str = Field(
        "twig", min_length=1, description="Folder of the twig, the log and the checkpoints."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse settings that contradict each other."""
        if self.batch % self.micro_batch:
            raise problem(
                f"a batch of {self.batch} does not split into micro-batches of "
                f"{self.micro_batch}; choose a divisor"
            )
        if self.data.evaluation is None:
            for name in ("evaluate_every", "patience"):
                if getattr(self, name) is not None:
                    raise problem(
                        f"{name} is set, but nothing is evaluated on; give data.evaluation too"
                    )
        if self.patience is not None and self.evaluate_every is None:
            raise problem("patience counts evaluations; give evaluate_every too")
        return self

    @property
    def base_source(self) -> str | None:
        """Where the base is loaded from, as far as this file says; None if only the twig does."""
        if self.base is not None or isinstance(self.twig, str):
            return self.base
        return self.twig.base

    def total_steps(self, samples: int) -> int:
        """Say how many optimiser steps the run has.

        Args:
            samples: Samples that are trained on.

        Returns:
            ``steps`` if given, else as many as the epochs need; the last batch of an epoch is
            filled up.
        """
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * math.ceil(samples / self.batch) - 1e-9))


def example() -> TrainingSpec:
    """Give a training run with every default, to start from."""
    data: dict[str, Any] = {"path": "data/conversations.json", "images": "data/images"}
    return TrainingSpec(twig=TwigSpec(base="path/to/base-model"), data=DataSpec(**data))
