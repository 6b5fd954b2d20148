"""How transformers is to load: no code of the checkpoint's, and no waiting for a Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

SECONDS = 5.0
"""How long to wait for the Hub's answer."""


def download_options(
    source: str | Path,
    revision: str | None = None,
    *,
    local_files_only: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """Return how transformers is to fetch something.

    Python that comes with a checkpoint is never run. Left open, transformers would ask on the
    terminal whether to run it.

    Left to itself, ``from_pretrained`` asks a Hub that cannot be reached six times, for half a
    minute. Told to stay local it takes what was fetched before, or says at once what is missing.

    Args:
        source: Folder or Hub id.
        revision: Revision on the Hub.
        local_files_only: Whether nothing may be fetched; the Hub is not asked then.
        **given: ``token``, ``cache_dir`` and ``subfolder``; ``None`` leaves them to the client.

    Returns:
        ``revision``, ``local_files_only``, ``trust_remote_code`` and what was given, as
        ``from_pretrained`` takes them.
    """
    token = given.get("token")
    local = local_files_only or (
        not os.path.isdir(source) and not reaches_hub(str(source), revision, token=token)
    )
    options = {"revision": revision, "local_files_only": local, "trust_remote_code": False}
    return options | {name: value for name, value in given.items() if value is not None}


def reaches_hub(
    name: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    local_files_only: bool | None = False,
) -> bool:
    """Ask the Hub for a model, once.

    Args:
        name: Hub id.
        revision: Revision on the Hub.
        token: For the Hub.
        local_files_only: Whether it may not be asked.

    Returns:
        Whether it may be asked and gives any answer at all.
    """
    if local_files_only:
        return False
    try:
        HfApi(token=token).model_info(name, revision=revision, timeout=SECONDS)
    except (HfHubHTTPError, HFValidationError):
        return True  # what is wrong with the name or the permission, transformers says better
    except Exception:  # a line that is down has other errors in every version of the Hub's client
        return False
    return True
