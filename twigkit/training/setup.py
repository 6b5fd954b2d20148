"""What a run starts from: processes, devices, the base, and a twig to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from twigkit.errors import CapabilityError, TrainingError
from twigkit.interfaces.objective import Objective
from twigkit.io.files import expanded
from twigkit.model import TwigModel
from twigkit.plugins.blame import blamed_on
from twigkit.plugins.discovery import default_registry
from twigkit.specs.run import ObjectiveSpec, TwigSpec
from twigkit.training.checkpointing.snapshot_files import FOLDER
from twigkit.training.spec import TrainingSpec
from twigkit.twig.checkpoint import read_spec

SERVED = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU", "FSDP")
"""Ways of accelerate to run several processes that are known to give the same weights as one."""


def accelerator_for(spec: TrainingSpec, model: TwigModel | None = None) -> Any:
    """Find out which process this is and what it runs on.

    Micro-batches, precision and the scaling of the loss are the trainer's own, and nothing is
    compiled, so whatever accelerate's configuration says of them has no effect.

    Args:
        spec: The run.
        model: A model that is loaded already; it stays where it is.

    Returns:
        Accelerate's accelerator.

    Raises:
        TrainingError: If the processes work together in a way that is not served.
    """
    on_cpu = not torch.accelerator.is_available()
    if model is not None:
        on_cpu = next(model.base.parameters()).device.type == "cpu"
    try:
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision="no",
            dynamo_backend="no",
            log_with=list(spec.trackers) or None,
            project_dir=str(Path(expanded(spec.out)) / FOLDER),
            # Gradients lie in what crosses the processes, and not beside it once more.
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    except ValueError as error:
        raise TrainingError(
            f"accelerate cannot start: {error}; mend its configuration, or leave it out"
        ) from error
    kind = DistributedType(accelerator.distributed_type).value
    sharded = getattr(accelerator.state, "fsdp_plugin", None)
    if kind not in SERVED or (sharded is not None and sharded.fsdp_version != 2):
        raise TrainingError(
            f"accelerate is set up for {kind}{' version 1' if kind == 'FSDP' else ''}; training "
            "knows one process, several (DDP), and FSDP with fsdp_version 2: choose one of them"
        )
    return accelerator


def load_model(spec: TrainingSpec, device: torch.device) -> TwigModel:
    """Load the base and grow or load the twig that is trained.

    Args:
        spec: The run.
        device: Where to, unless the spec maps the base to devices.

    Returns:
        The model.

    Raises:
        TrainingError: If a head to be grown has a draft vocabulary, of which a spec cannot say
            which tokens it holds.
        TwigkitError: If the base or the twig cannot be loaded.
    """
    if spec.runtime.twig_weights != "plain":
        raise TrainingError(
            f"runtime.twig_weights is {spec.runtime.twig_weights!r}, and rounded weights cannot be "
            "trained; leave it out"
        )
    given = spec.twig
    grown = read_spec(given) if isinstance(given, str) else given
    if not isinstance(given, str):
        _check_heads(given)
    placed: Any = None if device.type == "cpu" else {"": device}
    model = TwigModel.from_pretrained(
        spec.base or grown.base,
        dtype=spec.runtime.dtype,
        device_map=spec.runtime.device_map or placed,
        revision=None if spec.base else grown.revision,
        attn_implementation="eager" if spec.runtime.attention == "eager" else None,
        attention=spec.runtime.attention,
        graphs=spec.runtime.graphs,
        twig=given if isinstance(given, str) else None,
    )
    if not isinstance(given, str):
        torch.manual_seed(spec.seed)  # of what is not copied from the base
        model.grow(given)
    return model


def _check_heads(grown: TwigSpec) -> None:
    """Refuse to grow heads for tokens that nobody has chosen."""
    for name, head in grown.heads.items():
        if getattr(head, "draft_vocabulary", None) is not None:
            raise TrainingError(
                f"the head {name!r} has a draft_vocabulary, and a spec cannot say which tokens "
                "those are; grow the twig whole, cut it with cut_vocabulary, save it, and name its "
                "folder as the twig"
            )


def make_objective(spec: ObjectiveSpec, model: TwigModel) -> Objective:
    """Make the objective that a spec names.

    Args:
        spec: Its settings.
        model: Base and twig.

    Returns:
        The objective; the twig's parameters that it does not train are frozen.

    Raises:
        CapabilityError: If there is no twig, or it lacks what the objective needs.
        SpecError: If its settings do not fit the base.
    """
    if model.twig is None:
        raise CapabilityError("there is no twig to train; grow or load one first")
    cls = default_registry().get("objective", spec.kind).cls
    with blamed_on("objective", cls):
        objective: Objective = cls(spec, model.stack, model.twig)
    return objective
