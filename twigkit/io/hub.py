"""How transformers is to load: no code of the checkpoint's, and no waiting for a Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

SECONDS = 5.0
"""How long to wait for the Hub's answer."""


def download_options(source: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Return how transformers is to fetch something.

    Python that comes with a checkpoint is never run. Left open, transformers would ask on the
    terminal whether to run it.

    Left to itself, ``from_pretrained`` asks a Hub that cannot be reached six times, for half a
    minute. Told to stay local it takes what was fetched before, or says at once what is missing.

    Args:
        source: Folder or Hub id.
        revision: Revision on the Hub.

    Returns:
        ``revision``, ``local_files_only`` and ``trust_remote_code``, as ``from_pretrained`` takes
        them.
    """
    local = not os.path.isdir(source) and not _answers(str(source), revision)
    return {"revision": revision, "local_files_only": local, "trust_remote_code": False}


def _answers(name: str, revision: str | None) -> bool:
    """Ask the Hub for a model, once."""
    try:
        HfApi().model_info(name, revision=revision, timeout=SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return True  # what is wrong with the name or the permission, transformers says better
    except Exception:  # a line that is down has other errors in every version of the Hub's client
        return False
    return True
