"""Twigs on disk: ``twig.json``, ``model.safetensors`` and a model card, loaded strictly.

Beside them goes a fixed file of code by which transformers' own ``generate`` finds twigkit. twigkit
writes it and never runs it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from twigkit.backbone.joint_weights import lay_together
from twigkit.backbone.layer_stack import LayerStack
from twigkit.errors import CheckpointError
from twigkit.io.files import expanded
from twigkit.specs.run import TwigSpec
from twigkit.twig.card import Result, write_card
from twigkit.twig.fingerprint import compare_fingerprints, fingerprint
from twigkit.twig.hub import CARD, CODE, FILES, WEIGHTS, locate
from twigkit.twig.manifest import FORMAT, MANIFEST, read_manifest
from twigkit.twig.module import Twig, grow
from twigkit.twig.quantised_weights import is_quantised_twig

logger = logging.getLogger(__name__)

_CODE = '''"""Lets transformers' own generate decode with this twig; needs `pip install twigkit`.

    base.generate(**inputs, custom_generate="THIS", trust_remote_code=True, twig="THIS")
"""

from twigkit.custom_generate import generate

__all__ = ["generate"]
'''
"""The same in every twig."""

_SCRATCH = ".twigkit-writing"
"""Where the files of a twig lie until all of them are written."""


def save_twig(
    twig: Twig,
    stack: LayerStack,
    folder: str | Path,
    *,
    note: str = "",
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a twig to a folder, whole or not at all.

    Args:
        twig: The twig.
        stack: The base that it grew on.
        folder: Where to.
        note: A line for the model card.
        provenance: What else to say about where the twig comes from, as plain data; ``results`` and
            ``licence`` in it are shown on the model card.
        overwrite: Whether a twig there is replaced. Its own files are; all else stays.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the folder holds a twig that may not be replaced, or something that is
            not a twig, or cannot be written.
    """
    target = Path(expanded(folder))
    try:
        check_free(target, overwrite=overwrite)
        if target.is_dir():
            return write_twig(twig, stack, target, note=note, provenance=provenance)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as made:
            scratch = Path(made) / "twig"
            scratch.mkdir()
            _write(twig, stack, scratch, note, provenance)
            scratch.rename(target)
    except (OSError, ValueError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"cannot write the twig to {str(target)!r}: {cause}; choose another place or make room"
        ) from error
    return target


def check_free(folder: str | Path, *, overwrite: bool) -> None:
    """Make sure that writing a twig into a folder replaces nothing that should stay.

    Args:
        folder: Where the twig would go; it need not be there.
        overwrite: Whether a twig there may be replaced.

    Raises:
        CheckpointError: If the folder holds a twig that may not be replaced, or something else.
        OSError: If it cannot be read.
    """
    target = Path(expanded(folder))
    if not target.exists():
        return
    if (target / MANIFEST).is_file():
        if not overwrite:
            raise CheckpointError(
                f"{target} holds a twig already; name another folder, or pass overwrite=True "
                "(--force) to replace it"
            )
    elif any(target.iterdir()):
        raise CheckpointError(f"{target} exists and holds no twig; name an empty or a new folder")


def write_twig(
    twig: Twig,
    stack: LayerStack,
    folder: str | Path,
    *,
    note: str = "",
    provenance: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a twig's files into a folder that holds other things too, such as its training run.

    Only the twig's own :data:`FILES` are replaced. Each of them is there whole or not at all, the
    manifest last; it has a checksum of the weights, so that no mixture of two twigs is loaded.

    Args:
        twig: The twig.
        stack: The base that it grew on.
        folder: Where to.
        note: A line for the model card.
        provenance: What else to say about where the twig comes from, as plain data; ``results`` and
            ``licence`` in it are shown on the model card.
        state: Weights that go in place of the twig's own, by name.

    Returns:
        The folder.

    Raises:
        OSError: If something cannot be written.
        SafetensorError: If the weights cannot be written.
    """
    target = Path(expanded(folder))
    scratch = target / _SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _write(twig, stack, scratch, note, provenance, state)
        (target / CODE).parent.mkdir(exist_ok=True)
        for name in FILES:
            with (scratch / name).open("rb") as file:
                os.fsync(file.fileno())
            os.replace(scratch / name, target / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _write(
    twig: Twig,
    stack: LayerStack,
    folder: Path,
    note: str,
    provenance: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the files."""
    if is_quantised_twig(twig):
        raise CheckpointError(
            "the twig's weights are rounded to eight bits in memory, which no checkpoint holds; "
            "load it with plain weights to save it"
        )
    weights = {**twig.state_dict(), **(state or {})}
    plain = _apart({name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()})
    broken = [name for name, tensor in plain.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"the twig's {broken[0]} has values that are no numbers (NaN or infinite), so the twig "
            "could not be loaded again; train or load it again"
        )
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    base = fingerprint(stack)
    if not all(map(math.isfinite, (v for w in base["weights"].values() for v in w["values"]))):
        raise CheckpointError(
            "the base has weights that are no numbers (NaN or infinite), and no twig of it could "
            "be told from another's; load the base again"
        )
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "spec": twig.spec.model_dump(mode="json"),
        "sources": twig.sources,
        "base": base,
        "checksums": {WEIGHTS: _checksum(folder / WEIGHTS)},
        "provenance": {
            "twigkit": version("twigkit"),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "python": platform.python_version(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv[0] else [],
            **(provenance or {}),
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    card = write_card(
        twig.spec,
        sum(parameter.numel() for parameter in twig.parameters()),
        manifest["provenance"],
        note=note,
        results=[Result.parse(each) for each in manifest["provenance"].get("results", ())],
        licence=manifest["provenance"].get("licence"),
    )
    (folder / CARD).write_text(card, encoding="utf-8")
    (folder / CODE).parent.mkdir()
    (folder / CODE).write_text(_CODE, encoding="utf-8")
    shutil.copymode(folder / MANIFEST, folder / WEIGHTS)  # safetensors lets nobody else read it


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy the weights that lie in another's memory, as tied ones do: the file holds each apart."""
    taken: set[int] = set()
    for name, tensor in weights.items():
        place = tensor.untyped_storage().data_ptr()
        weights[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return weights


def load_twig(
    source: str | Path,
    stack: LayerStack,
    *,
    revision: str | None = None,
    allow_other_base: bool = False,
    **hub: Any,
) -> Twig:
    """Load a twig and make sure that it belongs to the base.

    Args:
        source: A folder or a Hub id.
        stack: The base.
        revision: Revision on the Hub.
        allow_other_base: Accept a base whose weights differ from the one that the twig grew on (a
            fine-tune of it, say); shapes must still fit.
        **hub: ``subfolder``, ``token``, ``cache_dir``, ``local_files_only`` and ``endpoint``.

    Returns:
        The twig, on the device and in the precision of the exit layer, in evaluation mode.

    Raises:
        CheckpointError: If files are missing or damaged, names or shapes do not fit, or the base is
            another one; the differences are named.
    """
    folder = locate(source, revision, **hub)
    manifest = read_manifest(folder)
    spec = manifest.spec
    problems = compare_fingerprints(manifest.base.model_dump(), fingerprint(stack))
    if problems and not allow_other_base:
        raise CheckpointError(
            f"the twig in {source} was grown on another base ({spec.base}): "
            f"{'; '.join(problems[:3])}. "
            "Load that base, or pass allow_other_base=True (--allow-other-base) if this one is a "
            "fine-tune of it"
        )
    if spec.exit_layer + spec.depth > stack.depth:
        raise CheckpointError(
            f"the twig in {source} needs {spec.exit_layer + spec.depth} layers, the base has "
            f"{stack.depth}; load the base that it grew on"
        )
    twig = grow(spec, stack)
    if manifest.sources != twig.sources:
        raise CheckpointError(
            f"{folder / MANIFEST} names base layers {manifest.sources} as sources, but such a twig "
            f"starts from {twig.sources}; write the twig again"
        )
    load_state(twig, _read_weights(folder, manifest.checksums), folder)
    lay_together(twig.layers)
    logger.info("loaded the twig in %s: layers %s of %s", folder, twig.sources, spec.base)
    return twig.eval()


def read_spec(source: str | Path, *, revision: str | None = None) -> TwigSpec:
    """Read what a twig is, without its weights or its base.

    Args:
        source: A folder or a Hub id.
        revision: Revision on the Hub.

    Raises:
        CheckpointError: If there is no twig, or its manifest is damaged.
    """
    return read_manifest(locate(source, revision)).spec


def load_state(module: nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Fill a module strictly: every name and shape must fit.

    Raises:
        CheckpointError: Naming what is missing, unknown or of another shape.
    """
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} has shape {list(state[name].shape)}, expected {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems += [
        f"{name} is of {state[name].dtype}, expected {own[name].dtype} or similar"
        for name in own
        if name in state and state[name].is_floating_point() != own[name].is_floating_point()
    ]
    problems += [
        f"{name} has values that are no numbers (NaN or infinite)"
        for name, tensor in state.items()
        if name in own and not bool(tensor.isfinite().all())
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"the weights in {source} do not fit: {'; '.join(problems[:3])}{more}"
        )
    module.load_state_dict(state)


def _read_weights(folder: Path, checksums: Mapping[str, str]) -> dict[str, Tensor]:
    """Read ``model.safetensors``; twigs that were written without a checksum have none to check."""
    path = folder / WEIGHTS
    try:
        found = _checksum(path) if WEIGHTS in checksums else None
        state = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {WEIGHTS}; the twig is incomplete") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); copy or write the twig again"
        ) from error
    if found is not None and found != checksums[WEIGHTS]:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {found[:12]}..., but {MANIFEST} has "
            f"{checksums[WEIGHTS][:12]}...; copy or write the twig again. If you changed the "
            f"weights yourself, remove 'checksums' from {MANIFEST}"
        )
    return state


def _checksum(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
