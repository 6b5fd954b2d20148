"""Whole parameters and moments of what is trained, however the processes share them.

One process, DDP (every process holds all) and FSDP2 (each holds a slice) come to the same tensors
under the same names, so a run may go on with another number of processes than it began with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from twigkit.errors import TrainingError

MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}
"""AdamW's moments, by the name that they have in snapshots."""


def trained_names(module: nn.Module, twig: nn.Module) -> dict[str, str]:
    """Name what a module trains as the twig names it.

    Args:
        module: Holds the trained parameters, of the twig or its own; before it is wrapped for
            several processes.
        twig: The twig.

    Returns:
        The twig's name of each parameter by its name in the module, without duplicates; parameters
        that are not the twig's keep their own, with the prefix ``objective.``.

    Raises:
        TrainingError: If there is nothing to train, or nothing of the twig.
    """
    own = {id(parameter): name for name, parameter in twig.named_parameters()}
    found = {
        name: own.get(id(parameter), f"objective.{name}")
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    if not set(found.values()) & set(own.values()):
        raise TrainingError(
            f"the objective trains {'only parameters of its own' if found else 'nothing'}; it must "
            "register at least one parameter of the twig that requires a gradient"
        )
    return found


def whole_state(
    module: nn.Module, wanted: bool = True, without: Collection[str] = ()
) -> dict[str, Tensor]:
    """Collect a module's state, frozen parameters and buffers included; every process must call it.

    Args:
        module: The module, which may be sliced over the processes.
        wanted: Whether this process is to have it.
        without: Names of what is left out.

    Returns:
        Whole tensors on the CPU by name; nothing where they are not wanted.
    """
    found = {}
    for name, tensor in module.state_dict().items():
        if name in without:
            continue
        slices: Any = tensor
        whole: Tensor = slices.full_tensor() if isinstance(tensor, DTensor) else tensor
        if wanted:
            found[name] = whole.detach().cpu()
    return found


def gather_parameters(module: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Collect the trained parameters; every process must call it.

    Args:
        module: The module, wrapped or not.
        names: Names by the module's own, from :func:`trained_names`.

    Returns:
        Whole tensors on the CPU by name, in the first process; in others, perhaps nothing.
    """
    state: Mapping[str, Any] = get_model_state_dict(module, options=_GATHER)
    return {names[own]: tensor for own, tensor in state.items() if own in names}


def gather(
    module: nn.Module, optimiser: torch.optim.Optimizer, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Collect the trained parameters and AdamW's moments; every process must call it.

    Args:
        module: The module, wrapped or not.
        optimiser: AdamW over its parameters, each of which has had a gradient in every step.
        names: Names by the module's own, from :func:`trained_names`.

    Returns:
        Whole tensors on the CPU, named ``parameter.<name>``, ``first.<name>`` and
        ``second.<name>``, in the first process; in others, perhaps nothing.
    """
    parameters = gather_parameters(module, names)
    found = {f"parameter.{name}": tensor for name, tensor in parameters.items()}
    state: Any = get_optimizer_state_dict(module, optimiser, options=_GATHER)
    for own, held in state.get("state", {}).items():
        for kind, key in MOMENTS.items():
            found[f"{kind}.{names[own]}"] = held[key]
    return found


def spread(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    names: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    step: int,
) -> None:
    """Put what :func:`gather` collected back in its place; every process must call it.

    Args:
        module: The module, wrapped or not.
        optimiser: AdamW over its parameters.
        names: Names by the module's own, from :func:`trained_names`.
        tensors: What was collected; only the first process needs it.
        step: Optimiser steps that are done.

    Raises:
        TrainingError: If something is missing, or has another shape.
    """
    first = not _together() or distributed.get_rank() == 0
    if first:
        check(module, names, tensors)
    moments: Any = get_optimizer_state_dict(module, optimiser, options=_GATHER)
    spread_parameters(
        module, names, {n: tensors[f"parameter.{n}"] for n in names.values() if first}
    )
    if first:
        moments["state"] = {
            own: {
                "step": torch.tensor(float(step)),
                # Copies, since AdamW keeps and changes what it is given, here a mapped file.
                **{key: tensors[f"{kind}.{name}"].clone() for kind, key in MOMENTS.items()},
            }
            for own, name in names.items()
        }
    set_optimizer_state_dict(module, optimiser, moments if first else {}, options=_spreading())


def spread_parameters(
    module: nn.Module, names: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put trained parameters back in their place; every process must call it.

    Args:
        module: The module, wrapped or not.
        names: Names by the module's own.
        tensors: By name; only the first process needs them.
    """
    state: dict[str, Any] = {own: tensors[name] for own, name in names.items() if name in tensors}
    set_model_state_dict(module, state, options=_spreading())


def check(module: nn.Module, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Make sure that a snapshot holds what a module trains, and nothing else.

    Raises:
        TrainingError: Naming what does not fit.
    """
    shapes = {
        names[own]: tuple(parameter.shape)
        for own, parameter in _unwrapped(module).named_parameters()
        if own in names
    }
    wanted = {
        f"{kind}.{name}": shape
        for name, shape in shapes.items()
        for kind in ("parameter", *MOMENTS)
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not trained" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        raise TrainingError(
            f"the snapshot does not fit what is trained: {'; '.join(problems[:3])}"
            f"{f' and {len(problems) - 3} more' if len(problems) > 3 else ''}; train in another "
            "folder, or with the objective that the snapshot is of"
        )


_GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def _spreading() -> StateDictOptions:
    """Tell torch to hand the first process's tensors to the others, where there are others."""
    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=_together(), strict=False)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _unwrapped(module: nn.Module) -> nn.Module:
    """Look below DDP."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
