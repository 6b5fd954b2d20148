"""Import of twigs in the layout of the published checkpoints.

Such a checkpoint is a folder of safetensors files in one of two layouts. As trained, it names the
twig as if it were a small model of its own: ``model.layers.0 ..``, ``model.norm`` and ``lm_head``.
As loaded for inference, these are ``model.twig_layers.0 ..``, ``model.twig_norm`` and
``model.twig_head``. Those of TwigVLM++ also hold the two gates of the pruning head and, unless
somebody removed them, copies of the base, which are compared with the base and left out. Where the
twig grows stands in the folder's name at most (``K2-T3``), on which base nowhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.errors import CheckpointError
from twigkit.specs.run import TwigSpec
from twigkit.twig.module import Twig, grow
from twigkit.twig.weight_files import WeightFiles, some

EXIT_LAYER = 2
"""Where a twig grows if nobody says (arXiv 2503.14075 §5)."""

GATES = ("leaf_attention_module", "leaf_proj")
"""One of these is in the names of the gates, wherever it stands; older builds have the second."""

_VOCABULARY = ("lm_head.weight", "embed_tokens.weight")
"""Ends of the names of tensors with one row per token of the vocabulary."""

_SIDES = {
    "query": re.compile(r"(?<![a-z])[gw]?q(uery)?(?![a-z])"),
    "key": re.compile(r"(?<![a-z])[gw]?k(ey)?(?![a-z])"),
}
"""How the name of a gate, after one of :data:`GATES`, may say which it is."""

_NAMED = re.compile(r"(?<![A-Za-z0-9])K(\d{1,4})[-_]?T(\d{1,4})(?![A-Za-z0-9])")
"""Exit layer and depth in a folder's name."""


@dataclass(frozen=True)
class Layout:
    """How a checkpoint names its tensors.

    Attributes:
        twig: What the names of the twig's tensors begin with, and what stands there in a twig.
        base: What the names of the base's begin with, and which part of the base it is.
    """

    twig: dict[str, str]
    base: dict[str, str]

    def place(self, name: str, rules: dict[str, str]) -> str | None:
        """Return where a tensor belongs by some rules; ``None`` if no rule is about it."""
        found = next((source for source in rules if name.startswith(source)), None)
        return None if found is None else rules[found] + name.removeprefix(found)

    def source(self, target: str) -> str:
        """Return the name that a tensor of the twig has in the checkpoint."""
        for source, place in self.twig.items():
            if target.startswith(place):
                return source + target.removeprefix(place)
        return target


TRAINED = Layout(
    twig={"lm_head.": "heads.lm.linear.", "model.norm.": "norm.", "model.layers.": "layers."},
    base={"bkb_lm_head.": "head.", "model.bkb_norm.": "norm.", "model.bkb_layers.": "layers."},
)
"""As the training scripts save it."""

INFERENCE = Layout(
    twig={
        "model.twig_head.": "heads.lm.linear.",
        "model.twig_norm.": "norm.",
        "model.twig_layers.": "layers.",
    },
    base={
        "lm_head.": "head.",
        "model.norm.": "norm.",
        "model.layers.": "layers.",
        "model.embed_tokens.": "embedding.",
    },
)
"""As the published code holds it for inference."""


def import_reference(
    checkpoint: str | Path,
    stack: LayerStack,
    *,
    base: str,
    exit_layer: int | None = None,
    depth: int | None = None,
    revision: str | None = None,
) -> Twig:
    """Build a twig from a published checkpoint; one tensor of it is in memory at a time.

    Args:
        checkpoint: Folder with one or several safetensors files.
        stack: The base that the twig was trained on.
        base: Folder or Hub id of that base, noted in the twig's spec.
        exit_layer: Base layers that run before the twig, K; ``None`` takes what the folder's name
            says, or else 2.
        depth: Number of twig layers, T; ``None`` takes what the checkpoint holds.
        revision: Revision of the base on the Hub, noted in the twig's spec.

    Returns:
        The twig, in the precision of the base, in evaluation mode. A head with fewer rows than the
        base's vocabulary keeps its rows; tokens beyond them are never drafted.

    Raises:
        CheckpointError: If files are missing or damaged; exit layer or depth are not what the
            folder's name or the checkpoint say; weights are missing, unknown or of another shape;
            or copies of the base differ from the base. Weights are named as the checkpoint does.
        SpecError: If exit layer and depth do not fit the base.
    """
    files = WeightFiles(Path(checkpoint))
    inference = any(name.startswith("model.twig_") for name in files.entries)
    layout = INFERENCE if inference else TRAINED
    exit_layer, depth = _where(files, layout, exit_layer, depth)
    spec = TwigSpec.parse(
        {
            "base": base,
            "revision": revision,
            "exit_layer": exit_layer,
            "depth": depth,
            "heads": _heads(files, layout, stack),
        }
    )
    twig = grow(spec, stack)
    own = twig.state_dict()
    targets = _targets(files, layout, own, stack)
    copies = {
        name: part
        for name in files.entries
        if name not in targets and (part := _base_part(layout, stack, name)) is not None
    }
    for name, part in copies.items():
        _compare(files, name, part)
    with torch.no_grad():
        for name, target in targets.items():
            own[target].copy_(files.read(name))
    return twig.eval()


def _where(
    files: WeightFiles, layout: Layout, exit_layer: int | None, depth: int | None
) -> tuple[int, int]:
    """Find out exit layer and depth, and refuse what contradicts itself."""
    folder = files.folder
    named = _NAMED.search(folder.resolve().name)
    if named is not None:
        said = (int(named[1]), int(named[2]))
        options = {"--exit-layer": (exit_layer, said[0]), "--depth": (depth, said[1])}
        for option, (given, found) in options.items():
            if given not in (None, found):
                raise CheckpointError(
                    f"the name of {folder} says {named[0]}, but {option} is {given}; leave the "
                    "option out, or rename the folder if its name is wrong"
                )
        exit_layer, depth = said
    start = next(source for source, place in layout.twig.items() if place == "layers.")
    pattern = re.compile(re.escape(start) + r"(\d{1,9})\.")
    layers = sorted({int(match[1]) for name in files.entries if (match := pattern.match(name))})
    wanted = len(layers) if depth is None else depth
    if not layers or len(layers) != wanted or layers[-1] != wanted - 1:
        asked = "none in between may lack" if depth is None else f"a depth of {depth} was asked for"
        raise CheckpointError(
            f"{folder} holds the twig layers {', '.join(map(str, layers[:9])) or 'none'}, but "
            f"{asked}; give the depth that the twig was trained with, and all its files"
        )
    return EXIT_LAYER if exit_layer is None else exit_layer, wanted


def _heads(files: WeightFiles, layout: Layout, stack: LayerStack) -> dict[str, dict[str, Any]]:
    """Specs of the heads that the checkpoint brings."""
    heads: dict[str, dict[str, Any]] = {"lm": {"kind": "lm"}}
    weight = files.entries.get(layout.source("heads.lm.linear.weight"))
    if weight is not None and len(weight.shape) == 2 and 0 < weight.shape[0] < stack.vocabulary:
        heads["lm"]["rows"] = weight.shape[0]
    if any(_is_gate(name) for name in files.entries):
        heads["pruning"] = {"kind": "pruning", "rotary": True, "offset": 0.0}
    return heads


def _targets(
    files: WeightFiles, layout: Layout, own: dict[str, Tensor], stack: LayerStack
) -> dict[str, str]:
    """Find the place of every tensor in the twig, from the headers alone.

    Raises:
        CheckpointError: Naming what is missing, unknown or of another shape.
    """
    targets = _find_gates(files, own)
    problems = []
    for name, entry in files.entries.items():
        target = targets.get(name) or layout.place(name, layout.twig)
        if target in own:
            targets[name] = target
            if tuple(own[target].shape) != entry.shape or not entry.floating:
                kind = "" if entry.floating else " of whole numbers"
                wanted = list(own[target].shape)
                problems.append(f"{name} has shape {list(entry.shape)}{kind}, expected {wanted}")
        elif _base_part(layout, stack, name) is None:
            problems.append(f"{name} is unknown")
    found = set(targets.values())
    problems += [f"{layout.source(name)} is missing" for name in own if name not in found]
    if problems:
        raise CheckpointError(
            f"the weights in {files.folder} do not fit the base: {some(problems, '; ')}; check the "
            "base and the depth"
        )
    return targets


def _base_part(layout: Layout, stack: LayerStack, name: str) -> Tensor | None:
    """Return the tensor of the base that a tensor of the checkpoint is a copy of, if any."""
    place = layout.place(name, TRAINED.base | layout.base)
    if place is None:
        return None
    part, _, rest = place.partition(".")
    modules: dict[str, Any] = {
        "head": stack.model.get_output_embeddings(),
        "norm": stack.text.norm,
        "embedding": stack.model.get_input_embeddings(),
        "layers": stack.text.layers,
    }
    found: Tensor | None = modules[part].state_dict(keep_vars=True).get(rest)
    return found


def _compare(files: WeightFiles, name: str, part: Tensor) -> None:
    """Make sure that a copy is the base's own tensor.

    Training may have rounded it to another half precision. The base of Hugging Face may have more
    rows of vocabulary than the copy.

    Raises:
        CheckpointError: If it differs; names the tensor.
    """
    copy = files.read(name)
    if part.is_meta or not part.is_floating_point():
        raise CheckpointError(
            f"{name} in {files.folder} is a copy of the base's, but the base at hand is quantised "
            "or not in memory, so that they cannot be compared; load it as it was published"
        )
    own = part.detach()
    if copy.ndim == 2 and copy.shape[1:] == own.shape[1:] and name.endswith(_VOCABULARY):
        own = own[: copy.shape[0]]
    same = copy.shape == own.shape
    if same and copy.dtype == own.dtype:
        same = torch.equal(copy, own.to(copy.device))
    elif same:
        same = torch.allclose(copy.float(), own.to(copy.device).float(), rtol=2**-7, atol=1e-6)
    if not same:
        raise CheckpointError(
            f"{name} in {files.folder} is a copy of the base that the twig was trained on, and "
            "differs from the base at hand; name the base that the checkpoint was trained on"
        )


def _is_gate(name: str) -> bool:
    return any(gates in name for gates in GATES)


def _find_gates(files: WeightFiles, own: dict[str, Tensor]) -> dict[str, str]:
    """Tell the gate of the queries from that of the keys, by shape and by what the names say.

    Returns:
        Their places in the twig by their names in the checkpoint; empty if it holds none.

    Raises:
        CheckpointError: If that leaves a doubt, or another weight stands beside them.
    """
    given = {name: list(entry.shape) for name, entry in files.entries.items() if _is_gate(name)}
    if not given:
        return {}
    places = {side: f"heads.pruning.{side}.weight" for side in _SIDES}
    found: dict[str, list[str]] = {side: [] for side in _SIDES}
    for name, shape in given.items():
        inner = re.split("|".join(GATES), name, maxsplit=1)[1].lower()
        said = [side for side, pattern in _SIDES.items() if pattern.search(inner)]
        for side in said or list(_SIDES):
            if shape == list(own[places[side]].shape):
                found[side].append(name)
    chosen = [names[0] for names in found.values() if len(names) == 1]
    if len(chosen) < len(_SIDES) or len(set(chosen)) < len(given):
        listed = ", ".join(f"{name} {shape}" for name, shape in given.items())
        wanted = " and ".join(
            f"one of {list(own[place].shape)} for the {side}" for side, place in places.items()
        )
        raise CheckpointError(
            f"cannot tell the gates in {files.folder} apart: it holds {listed}; expected {wanted}, "
            "with 'q' or 'k' in the name where the shapes are the same, and nothing else. Check "
            "the base, or rename the weights"
        )
    return {names[0]: places[side] for side, names in found.items()}
