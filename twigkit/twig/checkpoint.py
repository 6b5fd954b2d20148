"""Twigs on disk: ``twig.json``, ``model.safetensors`` and a model card, loaded strictly."""

from __future__ import annotations

import json
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
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from twigkit.backbone.layer_stack import LayerStack
from twigkit.errors import CheckpointError
from twigkit.specs.run import TwigSpec
from twigkit.twig.manifest import FORMAT, MANIFEST, read_manifest
from twigkit.twig.module import Twig, grow

WEIGHTS = "model.safetensors"

_SAMPLES = 8
_TOLERANCE = 2e-3
_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "rope_parameters",
)


def fingerprint(stack: LayerStack) -> dict[str, Any]:
    """Describe a base so that another one is noticed.

    Args:
        stack: The base.

    Returns:
        The text configuration's shape-giving fields, and name, shape and a few values of the
        weights that the twig depends on: the embedding and the layers that it shares or copies are
        sampled evenly over the depth.
    """
    config = stack.config.to_dict()
    weights = {}
    for name, tensor in _sampled_weights(stack):
        flat = tensor.detach().flatten()
        place = torch.linspace(0, flat.numel() - 1, _SAMPLES, device=flat.device).long()
        values = [round(v, 6) for v in flat[place].float().tolist()]
        weights[name] = {"shape": list(tensor.shape), "values": values}
    return {"config": {f: config[f] for f in _FIELDS if f in config}, "weights": weights}


def _sampled_weights(stack: LayerStack) -> list[tuple[str, Tensor]]:
    """Pick the weights that stand for a base."""
    picked = [("embedding", stack.model.get_input_embeddings().weight)]
    for number in sorted({0, 1, stack.depth // 2, stack.depth - 1} & set(range(stack.depth))):
        layer = stack.text.layers[number]
        matrices = [(n, p) for n, p in layer.named_parameters() if p.ndim == 2 and not p.is_meta]
        picked += [(f"layers.{number}.{name}", p) for name, p in matrices[:2]]
    return picked


def compare_fingerprints(saved: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Name the differences between the base that a twig was grown on and the one at hand."""
    problems = []
    for key in sorted({*saved.get("config", {}), *found["config"]}):
        old, new = saved.get("config", {}).get(key), found["config"].get(key)
        if old != new:
            problems.append(f"{key} is {new!r}, the twig's base had {old!r}")
    for name in sorted({*saved.get("weights", {}), *found["weights"]}):
        old, new = saved.get("weights", {}).get(name), found["weights"].get(name)
        if old is None or new is None:
            which = "this base" if old is None else "the twig's base"
            problems.append(f"weight {name} is known of {which} only")
            continue
        if new["shape"] != old["shape"] or len(new["values"]) != len(old["values"]):
            problems.append(f"weight {name} has shape {new['shape']}, expected {old['shape']}")
            continue
        scale = max(map(abs, old["values"]), default=1.0) or 1.0
        gap = max(abs(a - b) for a, b in zip(old["values"], new["values"], strict=True))
        if gap > _TOLERANCE * max(scale, 1e-3) * 10:
            problems.append(f"the values of weight {name} differ by up to {gap:.3g}")
    return problems


def save_twig(
    twig: Twig,
    stack: LayerStack,
    folder: str | Path,
    *,
    note: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a twig to a folder, whole or not at all.

    Args:
        twig: The twig.
        stack: The base that it grew on.
        folder: Where to; an existing twig there is replaced.
        note: A line for the model card.
        provenance: What else to say about where the twig comes from, as plain data.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the folder holds something that is not a twig, or cannot be written.
    """
    target = Path(folder)
    try:
        if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
            raise CheckpointError(
                f"{target} exists and holds no twig; name an empty or a new folder"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as made:
            scratch, previous = Path(made) / "twig", Path(made) / "previous"
            scratch.mkdir()
            _write(twig, stack, scratch, note, provenance)
            _replace(target, scratch, previous)
    except (OSError, ValueError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"cannot write the twig to {str(target)!r}: {cause}; choose another place or make room"
        ) from error
    return target


def _replace(target: Path, scratch: Path, previous: Path) -> None:
    """Put a folder in the place of another, which stays if that fails."""
    if not target.exists():
        scratch.rename(target)
        return
    target.rename(previous)
    try:
        scratch.rename(target)
    except OSError:
        previous.rename(target)
        raise


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

    Each file is there whole or not at all, the manifest last, so that what is cut off leaves no
    twig or an older one of the same shapes.

    Args:
        twig: The twig.
        stack: The base that it grew on.
        folder: Where to.
        note: A line for the model card.
        provenance: What else to say about where the twig comes from, as plain data.
        state: Weights that go in place of the twig's own, by name.

    Returns:
        The folder.

    Raises:
        OSError: If something cannot be written.
        SafetensorError: If the weights cannot be written.
    """
    target = Path(folder)
    scratch = target / ".writing"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _write(twig, stack, scratch, note, provenance, state)
        for name in (WEIGHTS, "README.md", MANIFEST):
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
    """Write the three files."""
    weights = {**twig.state_dict(), **(state or {})}
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    manifest = {
        "format": FORMAT,
        "spec": twig.spec.model_dump(mode="json"),
        "sources": twig.sources,
        "base": fingerprint(stack),
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
    (folder / "README.md").write_text(_card(twig, note), encoding="utf-8")


def _card(twig: Twig, note: str) -> str:
    """Write the model card."""
    spec, parameters = twig.spec, sum(p.numel() for p in twig.parameters())
    return (
        "---\nlibrary_name: twigkit\ntags: [twigkit]\n"
        f"base_model: {spec.base}\n---\n\n# A twig for {spec.base}\n\n"
        f"{spec.depth} decoder layers on the output of base layer {spec.exit_layer}, "
        f"{parameters:,} parameters, heads: {', '.join(twig.heads)}.\n\n"
        + (f"{note}\n\n" if note else "")
        + "```python\nfrom twigkit import TwigModel\n\n"
        f'model = TwigModel.from_pretrained("{spec.base}", twig="path/to/this/folder")\n```\n'
    )


def load_twig(
    source: str | Path,
    stack: LayerStack,
    *,
    revision: str | None = None,
    allow_other_base: bool = False,
) -> Twig:
    """Load a twig and make sure that it belongs to the base.

    Args:
        source: A folder or a Hub id.
        stack: The base.
        revision: Revision on the Hub.
        allow_other_base: Accept a base whose weights differ from the one that the twig grew on (a
            fine-tune of it, say); shapes must still fit.

    Returns:
        The twig, on the device and in the precision of the exit layer, in evaluation mode.

    Raises:
        CheckpointError: If files are missing or damaged, names or shapes do not fit, or the base is
            another one; the differences are named.
    """
    folder = _locate(source, revision)
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
    load_state(twig, _read_weights(folder), folder)
    return twig.eval()


def read_spec(source: str | Path, *, revision: str | None = None) -> TwigSpec:
    """Read what a twig is, without its weights or its base.

    Args:
        source: A folder or a Hub id.
        revision: Revision on the Hub.

    Raises:
        CheckpointError: If there is no twig, or its manifest is damaged.
    """
    return read_manifest(_locate(source, revision)).spec


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
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"the weights in {source} do not fit: {'; '.join(problems[:3])}{more}"
        )
    module.load_state_dict(state)


def _locate(source: str | Path, revision: str | None) -> Path:
    """Return the folder of a twig, fetching it from the Hub if it is an id."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(source).startswith(".") or str(source).count("/") > 1:
        raise CheckpointError(f"there is no folder {source}; name a folder with {MANIFEST} in it")
    try:
        return Path(snapshot_download(str(source), revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        line = str(error).splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"{source} is neither a folder nor a twig that the Hub gives ({line}); name a folder "
            f"with {MANIFEST} in it, or a Hub id"
        ) from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Read ``model.safetensors``."""
    path = folder / WEIGHTS
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {WEIGHTS}; the twig is incomplete") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); copy or write the twig again"
        ) from error
