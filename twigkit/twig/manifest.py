"""What ``twig.json`` holds, checked before anything in it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat

from twigkit.errors import CheckpointError, SpecError
from twigkit.io.files import read_regular
from twigkit.specs.base import Spec
from twigkit.specs.run import TwigSpec

MANIFEST = "twig.json"
FORMAT = 1

LARGEST = 2**24
"""Most bytes of the manifest."""

Size = Annotated[int, Field(ge=0)]


class WeightSample(Spec):
    """What stands for one weight of a base."""

    shape: list[Size] = Field(description="Its shape.")
    values: list[FiniteFloat] = Field(description="Some of its values.", min_length=1)
    quantised: bool = Field(False, description="Whether the values are those of a quantised base.")


class BasePrint(Spec):
    """What stands for a base, so that another one is noticed."""

    config: dict[str, Any] = Field(description="Fields of its text configuration.", min_length=1)
    weights: dict[str, WeightSample] = Field(
        description="Samples of the weights that the twig depends on.", min_length=1
    )


class Manifest(Spec):
    """The content of ``twig.json``."""

    format: Literal[1] = Field(description="Version of this layout.")
    spec: TwigSpec = Field(description="What the twig is.")
    sources: list[Size] = Field(description="Base layers that its layers started from.")
    base: BasePrint = Field(description="The base that it grew on.")
    checksums: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of the files of weights, by name."
    )
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="How and with what it was made."
    )


def refuse_twig(base: str | Path) -> None:
    """Refuse a folder that holds a twig alone where a base is meant.

    Raises:
        CheckpointError: Naming the base that the twig grew on.
    """
    folder = Path(base)
    if (folder / MANIFEST).is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{base} is a twig, no base model; name the base that it grew on, "
            f"{read_manifest(folder).spec.base}"
        )


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a twig.

    Args:
        folder: The twig's folder.

    Raises:
        CheckpointError: If there is none, or it is damaged or of another format; says where.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(read_regular(path, LARGEST))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {MANIFEST}; it is not a twig") from None
    except (OSError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise CheckpointError(f"{path} is damaged ({line}); write the twig again") from error
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if found is True or found != FORMAT:
        raise CheckpointError(f"{path} has format {found!r}; this twigkit reads format {FORMAT}")
    try:
        return Manifest.parse(data)
    except SpecError as error:
        lines = [line.removeprefix("Manifest.") for line in str(error).splitlines()]
        more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
        raise CheckpointError(
            f"{path} cannot be used: {'; '.join(lines[:3])}{more}. Install what it names, or write "
            "the twig again"
        ) from error
