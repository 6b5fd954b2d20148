"""How the commands about shapes print them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from twigkit.families.inference_memory import inference_memory
from twigkit.families.sizing import Shape

COLUMNS = (
    "preset",
    "layers",
    "width",
    "heads",
    "visual",
    "exit",
    "wipe",
    "keep",
    "twig",
    "KV/token",
)


def row(name: str, shape: Shape) -> tuple[str, ...]:
    """Put a shape into the columns of the table."""
    return (
        name,
        str(shape.layers),
        str(shape.width),
        f"{shape.heads}/{shape.kv_heads}",
        str(shape.visual.count) if shape.visual else "-",
        f"{shape.exit_layer}+{shape.depth}",
        str(shape.wipe_layer),
        " ".join(f"{budget}:{count}" for budget, count in shape.keep.items()) or "-",
        f"{shape.twig_parameters / 1e6:,.0f} M",
        f"{shape.kv_bytes / 1024:,.0f} KiB",
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in rows
    )


def details(shape: Shape) -> str:
    """Print everything about one base, and a run to start from."""
    lines = [
        ("base", f"{shape.base} ({shape.model_type}, served by {shape.adapter})"),
        ("layers", f"{shape.layers}, {shape.width} wide"),
        ("heads", f"{shape.heads}, {shape.head_width} wide; {shape.kv_heads} of keys and values"),
        ("vocabulary", f"{shape.vocabulary:,}"),
        ("visual tokens", _visual(shape)),
        ("twig", _twig(shape)),
        ("KV per token", _kv(shape)),
    ]  # fmt: skip
    for name, count in inference_memory(shape).items():
        lines.append(("memory", f"{count / 1e9:,.3f} GB  {name}"))
    if shape.visual:
        lines += [("wipe layer", _wipe(shape)), *_budgets(shape)]
    text = "\n".join(f"{name:<14} {value}" for name, value in lines)
    run = starter(shape)
    if run is None:
        return f"{text}\n\n# To start from:\n{_plain_command(shape)}\n"
    return f"{text}\n\n# A run to start from:\n{yaml.safe_dump(run, sort_keys=False)}"


def _twig(shape: Shape) -> str:
    """Say how large a twig is, or why there can be none."""
    if shape.recurrent:
        return (
            f"none: {shape.recurrent} of the layers carry a state from token to token, which "
            "cannot be rolled back when a draft is rejected"
        )
    return (
        f"{shape.depth} layers after layer {shape.exit_layer}, {shape.twig_parameters:,} parameters"
    )


def _kv(shape: Shape) -> str:
    """Say what a token's keys and values take."""
    if shape.recurrent:
        return f"{shape.kv_bytes:,} bytes in the other layers"
    return f"{shape.kv_bytes:,} bytes, and {shape.twig_kv_bytes:,} in the twig"


def _plain_command(shape: Shape) -> str:
    """Return a command that answers without a twig."""
    return f"twigkit generate --base {shlex.quote(shape.base)} --twig none --prompt QUESTION"


def _wipe(shape: Shape) -> str:
    """Say after which layer no visual token is left, and what else there is to choose."""
    text = f"{shape.wipe_layer} of {shape.layers}"
    if shape.wipe_layer == shape.fraction_wipe:
        return text
    return f"{text}, as in the paper; three quarters of the layers are {shape.fraction_wipe}"


def _budgets(shape: Shape) -> list[tuple[str, str]]:
    """Say what the paper's budgets keep, with either wipe layer."""
    lines = []
    for budget, count in shape.keep.items():
        text = f"keeps {count} visual tokens up to the wipe layer"
        other = shape.fraction_keep.get(budget)
        if other is not None and shape.wipe_layer != shape.fraction_wipe:
            text += f" ({other} up to layer {shape.fraction_wipe})"
        lines.append((f"budget {budget}", text))
    return lines


def starter(shape: Shape) -> dict[str, Any] | None:
    """Return a run spec to start from, as plain data; ``None`` where no twig can be grown."""
    if shape.recurrent:
        return None
    run: dict[str, Any] = {
        "twig": {"base": shape.base, "exit_layer": shape.exit_layer, "depth": shape.depth},
        "generation": {"drafter": "ssd"},
    }
    if shape.keep:
        run["generation"] |= {"budget": min(shape.keep), "wipe_layer": shape.wipe_layer}
    return run


def as_json(shape: Shape) -> dict[str, Any]:
    """Give a shape as plain data."""
    held = inference_memory(shape)
    return {**dataclasses.asdict(shape), "memory": held, "run": starter(shape)}


def dump(document: Any) -> str:
    """Write plain data as JSON."""
    return json.dumps(document, indent=2)


def _visual(shape: Shape) -> str:
    """Say how many visual tokens a usual prompt has."""
    if shape.visual:
        return f"{shape.visual.count} for {shape.visual.of}"
    if shape.tried:
        return "known only to an adapter, and none declares this family"
    told = f"as many as a picture takes; {shape.adapter}.visual_tokens does not say how many"
    return told if shape.pictures else "none"
