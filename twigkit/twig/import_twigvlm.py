"""Import of twigs in the layout of the published checkpoints.

Such a checkpoint is a folder of safetensors files that name the twig as if it were a small model of
its own: ``model.layers.0 ..``, ``model.norm`` and ``lm_head``. Those of TwigVLM++ also hold the two
gates of the pruning head. A checkpoint says neither where the twig grows nor on which base; both
are given by whoever imports it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from twigkit.backbone.layer_stack import LayerStack
from twigkit.errors import CheckpointError
from twigkit.specs.run import TwigSpec
from twigkit.twig.checkpoint import load_state
from twigkit.twig.module import Twig, grow

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Rule:
    """Where a part of a published checkpoint belongs in a twig.

    Attributes:
        source: Beginning of the names in the checkpoint.
        target: What stands in its place in the twig.
    """

    source: str
    target: str


RULES = (
    Rule("lm_head.", "heads.lm.linear."),
    Rule("model.norm.", "norm."),
    Rule("model.layers.", "layers."),
)
"""The layout, gates aside."""

GATES = "leaf_attention_module"
"""What the names of the gates contain, wherever they stand; what follows is not relied upon."""

_SIDES = {
    "query": re.compile(r"(?<![a-z])[gw]?q(uery)?(?![a-z])"),
    "key": re.compile(r"(?<![a-z])[gw]?k(ey)?(?![a-z])"),
}
"""How the name of a gate, behind :data:`GATES`, may say which it is."""

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def import_reference(
    checkpoint: str | Path,
    stack: LayerStack,
    *,
    base: str,
    exit_layer: int,
    depth: int,
    revision: str | None = None,
) -> Twig:
    """Build a twig from a published checkpoint.

    Args:
        checkpoint: Folder with one or several safetensors files.
        stack: The base that the twig was trained on.
        base: Folder or Hub id of that base, noted in the twig's spec.
        exit_layer: Base layers that run before the twig, K.
        depth: Number of twig layers, T.
        revision: Revision of the base on the Hub, noted in the twig's spec.

    Returns:
        The twig, in the precision of the base, in evaluation mode. A head with fewer rows than the
        base's vocabulary keeps its rows; tokens beyond them are never drafted.

    Raises:
        CheckpointError: If files are missing or damaged, or weights are missing, unknown or of
            another shape; they are named as the checkpoint names them.
        SpecError: If exit layer and depth do not fit the base.
    """
    folder = Path(checkpoint)
    state = read_checkpoint(folder)
    _check_depth(state, depth, folder)
    heads = _heads(state, stack)
    spec = TwigSpec.parse(
        {
            "base": base,
            "revision": revision,
            "exit_layer": exit_layer,
            "depth": depth,
            "heads": heads,
        }
    )
    twig = grow(spec, stack)
    _fill(twig, state, folder)
    return twig.eval()


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """Read all safetensors files of a folder.

    Args:
        folder: The checkpoint.

    Returns:
        Its weights by name.

    Raises:
        CheckpointError: If there are none, one is missing or damaged, or two hold the same name.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; name the checkpoint's folder")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} holds no safetensors file; convert the checkpoint's weights to safetensors, "
            "other formats are not read"
        )
    missing = sorted(_indexed(folder) - {path.name for path in files})
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}, which {INDEX} names; copy the missing files"
        )
    state: dict[str, Tensor] = {}
    for path in files:
        part = _read(path)
        twice = sorted(set(part) & set(state))
        if twice:
            raise CheckpointError(
                f"{path} repeats {_some(twice)} of another file; keep one checkpoint per folder"
            )
        state.update(part)
    return state


def _indexed(folder: Path) -> set[str]:
    """Names of the files that the index of a split checkpoint lists."""
    path = folder / INDEX
    if not path.exists():
        return set()
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy the file again") from error


def _read(path: Path) -> dict[str, Tensor]:
    """Read one file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy the file again") from error


def _check_depth(state: dict[str, Tensor], depth: int, folder: Path) -> None:
    """Refuse a depth that is not the checkpoint's."""
    found = {int(match[1]) for name in state if (match := _LAYER.match(name))}
    if found and found != set(range(depth)):
        raise CheckpointError(
            f"{folder} holds the twig layers {', '.join(map(str, sorted(found)))}, but a depth of "
            f"{depth} was asked for; give the depth that the twig was trained with"
        )


def _heads(state: dict[str, Tensor], stack: LayerStack) -> dict[str, dict[str, Any]]:
    """Specs of the heads that the checkpoint brings."""
    heads: dict[str, dict[str, Any]] = {"lm": {"kind": "lm"}}
    weight = state.get("lm_head.weight")
    if weight is not None and weight.ndim == 2 and weight.shape[0] < stack.vocabulary:
        heads["lm"]["rows"] = weight.shape[0]
    if any(GATES in name for name in state):
        heads["pruning"] = {"kind": "pruning", "rotary": True, "offset": 0.0}
    return heads


def _fill(twig: Twig, state: dict[str, Tensor], folder: Path) -> None:
    """Put the weights where they belong, and name what is missing, unknown or of another shape."""
    own = twig.state_dict()
    targets = _find_gates(state, own, folder)
    for name in state:
        rule = next((rule for rule in RULES if name.startswith(rule.source)), None)
        if rule is not None and GATES not in name:
            targets[name] = rule.target + name.removeprefix(rule.source)
    problems = []
    for name, tensor in state.items():
        target = targets.get(name)
        if target not in own:
            problems.append(f"{name} is unknown")
        elif own[target].shape != tensor.shape:
            problems.append(
                f"{name} has shape {list(tensor.shape)}, expected {list(own[target].shape)}"
            )
    found = set(targets.values())
    problems += [f"{_source_name(name)} is missing" for name in own if name not in found]
    if problems:
        raise CheckpointError(
            f"the weights in {folder} do not fit the base: {_some(problems, '; ')}; check the base "
            "and the depth"
        )
    load_state(twig, {target: state[name] for name, target in targets.items()}, folder)


def _find_gates(state: dict[str, Tensor], own: dict[str, Tensor], folder: Path) -> dict[str, str]:
    """Tell the gate of the queries from that of the keys, by shape and by what the names say.

    Returns:
        Their places in the twig by their names in the checkpoint; empty if it holds none.

    Raises:
        CheckpointError: If that leaves a doubt, or another weight stands beside them.
    """
    given = {name: tensor for name, tensor in state.items() if GATES in name}
    if not given:
        return {}
    places = {side: f"heads.pruning.{side}.weight" for side in _SIDES}
    found: dict[str, list[str]] = {side: [] for side in _SIDES}
    for name, tensor in given.items():
        inner = name.partition(GATES)[2].lower()
        said = [side for side, pattern in _SIDES.items() if pattern.search(inner)]
        for side in said or list(_SIDES):
            if tensor.shape == own[places[side]].shape:
                found[side].append(name)
    chosen = [names[0] for names in found.values() if len(names) == 1]
    if len(chosen) < len(_SIDES) or len(set(chosen)) < len(given):
        listed = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in given.items())
        wanted = " and ".join(
            f"one of {list(own[place].shape)} for the {side}" for side, place in places.items()
        )
        raise CheckpointError(
            f"cannot tell the gates in {folder} apart: it holds {listed}; expected {wanted}, with "
            "'q' or 'k' in the name where the shapes are the same, and nothing else. Check the "
            "base, or rename the weights"
        )
    return {names[0]: places[side] for side, names in found.items()}


def _source_name(target: str) -> str:
    """The name that a weight of the twig has in a published checkpoint."""
    rule = next((rule for rule in RULES if target.startswith(rule.target)), None)
    return target if rule is None else rule.source + target.removeprefix(rule.target)


def _some(names: list[str], joint: str = ", ") -> str:
    """The first three of a list, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return joint.join(names[:3]) + more
