"""Where a trained twig comes from: what its checkpoint says of the run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from twigkit.io.files import expanded
from twigkit.training.spec import TrainingSpec
from twigkit.twig.manifest import read_manifest


def describe_run(
    spec: TrainingSpec, *, processes: int, device: torch.device, data: dict[str, Any], step: int
) -> dict[str, Any]:
    """Describe a run for the checkpoint, beside the command and the versions that it holds anyway.

    Args:
        spec: The run.
        processes: Training processes.
        device: What the first of them ran on.
        data: The samples, in the loader's words.
        step: Optimiser steps that the weights have had.

    Returns:
        Plain data; ``git`` is ``None`` outside of a repository. ``start`` is what the checkpoint
        says that the run started from, if that was a folder.
    """
    start = Path(expanded(spec.twig)) if isinstance(spec.twig, str) else None
    return {
        "git": git_state(),
        "training": {
            "spec": spec.model_dump(mode="json"),
            "data": data,
            "steps": step,
            "processes": processes,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
        "start": read_manifest(start).provenance if start and start.is_dir() else None,
    }


def git_state(folder: str | Path = ".") -> dict[str, Any] | None:
    """Say which commit a folder is at; no program that the repository names is run.

    Args:
        folder: A folder in a repository.

    Returns:
        ``commit``, and whether files differ from it (``changed``); ``None`` if there is no
        repository, or no git.
    """
    commit = _git(folder, _SAFE, "rev-parse", "HEAD")
    if not commit:
        return None
    named = (
        _git(folder, _SAFE, "config", "--null", "--name-only", "--get-regexp", r"^filter\.") or ""
    )
    filters = {key: "" for key in named.split("\0") if key.endswith((".clean", ".process"))}
    filters |= {key: "false" for key in named.split("\0") if key.endswith(".required")}
    changed = _git(folder, _SAFE | filters, "diff-index", "--name-only", "HEAD", "--")
    return {"commit": commit, "changed": bool(changed)}


_SAFE = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.sshCommand": "false",
    "protocol.allow": "never",  # a partial clone would fetch what it lacks
}
"""Settings in place of a repository's own that name programs."""


def _git(folder: str | Path, settings: Mapping[str, str], *words: str) -> str | None:
    """Ask git, with some settings in place of the repository's; ``None`` if it does not answer."""
    given = [f"GIT_CONFIG_COUNT={len(settings)}"]
    for number, (key, value) in enumerate(settings.items()):
        given += [f"GIT_CONFIG_KEY_{number}={key}", f"GIT_CONFIG_VALUE_{number}={value}"]
    try:
        answer = subprocess.run(
            ["env", *given, "git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):  # names may hold anything
        return None
    return answer.stdout.strip()
