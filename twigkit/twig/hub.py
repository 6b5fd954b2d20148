"""Twigs on the Hub: found by id, fetched, and put there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from twigkit.errors import CheckpointError, first_line
from twigkit.io.files import expanded
from twigkit.io.hub import reaches_hub
from twigkit.twig.manifest import MANIFEST, Manifest, read_manifest

__all__ = ["CODE", "FILES", "find_twig", "locate", "pull", "push"]

WEIGHTS = "model.safetensors"
CARD = "README.md"
CODE = "custom_generate/generate.py"
FILES = (WEIGHTS, CARD, CODE, MANIFEST)
"""What a twig consists of, in the order in which it is written; the manifest makes it whole."""

_FAILURES = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError)


def locate(
    source: str | Path,
    revision: str | None = None,
    *,
    subfolder: str = "",
    files: Sequence[str] = FILES,
    **hub: Any,
) -> Path:
    """Return the folder of a twig, fetching it from the Hub if it is an id.

    Args:
        source: A folder or a Hub id.
        revision: Revision on the Hub.
        subfolder: Folder inside of it.
        files: What to fetch.
        **hub: ``token``, ``cache_dir``, ``local_files_only`` and ``endpoint`` for the Hub's client.

    Raises:
        CheckpointError: If there is neither.
    """
    folder = Path(expanded(source))
    if os.path.isdir(folder):  # false for a name that no file can have, too
        return folder / subfolder
    if folder.is_absolute() or str(source).startswith(".") or str(source).count("/") > 1:
        raise CheckpointError(f"there is no folder {source}; name a folder with {MANIFEST} in it")
    try:
        return _fetched(str(source), revision, subfolder, files, **hub)
    except _FAILURES as error:
        raise CheckpointError(
            f"{source} is neither a folder nor a twig that the Hub gives ({first_line(error)}); "
            f"name a folder with {MANIFEST} in it, or a Hub id"
        ) from error


def _fetched(
    name: str, revision: str | None, subfolder: str, files: Sequence[str], **hub: Any
) -> Path:
    """Fetch files of a twig; return the folder that holds them."""
    wanted = [f"{subfolder}/{each}" if subfolder else each for each in files]
    fetched = snapshot_download(name, revision=revision, allow_patterns=wanted, **hub)
    return Path(fetched) / subfolder


def find_twig(source: str | Path, revision: str | None = None, **hub: Any) -> Manifest | None:
    """Read the manifest of what may be a twig.

    Args:
        source: A folder or a Hub id.
        revision: Revision on the Hub.
        **hub: As for :func:`locate`, ``subfolder`` included.

    Returns:
        The manifest; ``None`` if there is no twig.

    Raises:
        CheckpointError: If there is a twig whose manifest is damaged.
    """
    if not os.path.isdir(expanded(source)) and hub.get("endpoint") is None:
        asked = {name: hub.get(name) for name in ("token", "local_files_only")}
        hub["local_files_only"] = not reaches_hub(str(source), revision, **asked)
    try:
        folder = locate(source, revision, files=(MANIFEST,), **hub)
    except CheckpointError:
        return None
    return read_manifest(folder) if (folder / MANIFEST).is_file() else None


def push(
    folder: str | Path,
    name: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> str:
    """Put a twig's files on the Hub; nothing else that lies beside them goes along.

    Args:
        folder: The twig.
        name: Hub id, ``"org/name"``; the repository is made if it is not there.
        private: Whether a repository that is made is private.
        revision: Branch; it is made if it is not there.
        message: Of the commit.
        token: For the Hub; ``None`` takes the one that the client has stored.
        endpoint: Address of the Hub; ``None`` is huggingface.co.

    Returns:
        Address of the commit.

    Raises:
        CheckpointError: If the folder holds no twig, or the Hub refuses.
    """
    source = Path(expanded(folder))
    read_manifest(source)
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=source,
            allow_patterns=list(FILES),
            revision=revision,
            commit_message=message or "Add a twig",
        )
    except Exception as error:  # a line that is down has as many types as versions of the client
        raise CheckpointError(
            f"the Hub does not take {folder} as {name}: {first_line(error)}; check the name, and "
            "log in with `hf auth login` or give a token that may write"
        ) from error
    return str(commit)


def pull(
    name: str, folder: str | Path, *, revision: str | None = None, subfolder: str = "", **hub: Any
) -> Path:
    """Fetch a twig into a folder.

    Args:
        name: Hub id.
        folder: Where to; files of the same names are replaced.
        revision: Revision on the Hub.
        subfolder: Folder inside of the repository.
        **hub: As for :func:`locate`.

    Returns:
        The folder that holds the twig.

    Raises:
        CheckpointError: If the Hub gives no twig by that name.
    """
    target = Path(expanded(folder))
    api = HfApi(endpoint=hub.get("endpoint"), token=hub.get("token"))
    try:
        # Asked for files alone, the client takes those that lie there for what a Hub that is down
        # or refuses would have given.
        local = hub.get("local_files_only")
        commit = revision if local else api.model_info(name, revision=revision).sha
        fetched = _fetched(name, commit, subfolder, FILES, **hub, local_dir=target)
    except Exception as error:  # as many types as for push
        raise CheckpointError(
            f"the Hub gives no twig {name} ({first_line(error)}); check the name, and give a "
            "token if it is private"
        ) from error
    read_manifest(fetched)
    return fetched
