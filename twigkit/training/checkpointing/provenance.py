"""Where a trained twig comes from: what its checkpoint says of the run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

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
    start = Path(spec.twig) if isinstance(spec.twig, str) else None
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
    """Say which commit a folder is at.

    Args:
        folder: A folder in a repository.

    Returns:
        ``commit``, and whether files differ from it (``changed``); ``None`` if there is no
        repository, or no git.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "diff-index", "--name-only", "HEAD", "--")
    return {"commit": commit, "changed": bool(changed)}


def _git(folder: str | Path, *words: str) -> str | None:
    """Ask git; ``None`` if it does not answer.

    The file monitor that the repository's configuration names is not run.
    """
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
