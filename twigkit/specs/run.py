"""Frozen settings, validated from Python, YAML and JSON alike.

A field that names a plug-in holds the spec of that plug-in. It is resolved by its ``kind`` against
the registry when it is validated, so a third party's kinds work wherever the built-in ones do.
Nothing here needs torch; resolving a kind imports the plug-ins.
"""

from __future__ import annotations

import math
import re
from contextvars import ContextVar
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializationInfo,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from twigkit.errors import RegistryError
from twigkit.plugins.discovery import default_registry
from twigkit.plugins.registry import Entry, Registry
from twigkit.specs.base import Spec, problem


class PluginSpec(Spec):
    """Settings of one plug-in; a plug-in's own spec gives ``kind`` its registered name."""

    kind: str = Field(description="Registered name of the plug-in.", min_length=1)


class HeadSpec(PluginSpec):
    """Settings of a head."""


class PrunerSpec(PluginSpec):
    """Settings of a pruner."""


class DrafterSpec(PluginSpec):
    """Settings of a drafter."""


class ObjectiveSpec(PluginSpec):
    """Settings of an objective."""


_describing: ContextVar[frozenset[str]] = ContextVar("twigkit_schema", default=frozenset())
"""Kinds whose union is being described, so that a spec can hold others of its own kind."""


@dataclass(frozen=True)
class ByKind:
    """Field annotation: resolve the value against the registry when it is validated.

    Accepts a spec, a bare name (``"ssd"``) or a mapping with ``kind``. The registry is the one
    under ``"registry"`` in the validation context, or else the one of the installed plug-ins.

    Attributes:
        kind: Kind of plug-in, such as ``"drafter"``.
        base: Base class of its specs, used as it is for a plug-in without settings.
    """

    kind: str
    base: type[PluginSpec]

    def resolve(self, value: object, registry: Registry) -> PluginSpec:
        """Turn a value into the spec of a registered plug-in.

        Args:
            value: A spec, a bare name, or a mapping with ``kind``.
            registry: Where to look the name up.

        Returns:
            An instance of the spec class that the plug-in registered.

        Raises:
            PydanticCustomError: If the name is unknown or the value has no usable form.
            ValidationError: If the plug-in's own spec refuses the settings.
        """
        if isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, PluginSpec):
            cls = self._spec_class(self._entry(value.kind, registry))
            if type(value) is cls:
                return value
            if type(value) is not self.base:
                raise problem(
                    f"got a {type(value).__name__} of kind {value.kind!r}, expected the "
                    f"{cls.__name__} that this {self.kind} registered"
                )
            value = {"kind": value.kind}
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
            raise problem(
                f"expected a {self.kind}: a name, a mapping with 'kind', or a "
                f"{self.base.__name__}; known: {', '.join(registry.names(self.kind))}"
            )
        cls = self._spec_class(self._entry(value["kind"], registry))
        return cls.model_validate(value, context={"registry": registry})

    def _entry(self, name: str, registry: Registry) -> Entry:
        """Look a name up, as a validation problem if it is unknown."""
        try:
            return registry.get(self.kind, name)
        except RegistryError as error:
            raise problem(str(error)) from None

    def _spec_class(self, entry: Entry) -> type[PluginSpec]:
        """Give the spec class of an entry."""
        return entry.spec or self.base

    def _validate(self, value: object, info: ValidationInfo) -> PluginSpec:
        context = info.context or {}
        return self.resolve(value, context.get("registry") or default_registry())

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> Any:
        """Validate with the registry and dump the fields of the plug-in's own spec."""

        def dump(value: PluginSpec, info: SerializationInfo) -> dict[str, Any]:
            return value.model_dump(mode=info.mode)

        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(dump, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: object, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the union of the registered kinds: a bare name or one of their specs.

        A spec may itself hold plug-ins of its own kind; those are described by name alone, since
        the full union stands around them already.
        """
        entries = default_registry().entries(self.kind)
        names = [entry.name for entry in entries]
        options: list[JsonSchemaValue] = [{"type": "string", "enum": names}]
        if self.kind in _describing.get():
            return {"anyOf": [*options, _named_schema(names)]}
        token = _describing.set(_describing.get() | {self.kind})
        try:
            for entry in entries:
                if entry.spec is None:
                    options.append(_bare_schema(entry.name))
                    continue
                settings = handler(entry.spec.__pydantic_core_schema__)
                options.append({**settings, "required": [*settings.get("required", ()), "kind"]})
        finally:
            _describing.reset(token)
        return {"anyOf": options}


HeadField = Annotated[HeadSpec, ByKind("head", HeadSpec)]
HeadName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
"""A head by name, mapping or spec."""

PrunerField = Annotated[PrunerSpec, ByKind("pruner", PrunerSpec)]
"""A pruner by name, mapping or spec."""

DrafterField = Annotated[DrafterSpec, ByKind("drafter", DrafterSpec)]
"""A drafter by name, mapping or spec."""

ObjectiveField = Annotated[ObjectiveSpec, ByKind("objective", ObjectiveSpec)]
"""An objective by name, mapping or spec."""


_RATIO = re.compile(r"[0-9]{1,9}/[0-9]{1,9}")
"""How a fraction may be written besides a number with a decimal point."""


def _count_or_fraction(value: object) -> int | float | None:
    """Refuse what is neither a count nor a fraction, in one problem instead of one per type."""
    if value is None:
        return None
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1:
        return int(value)
    share = math.nan
    if isinstance(value, Real) and not isinstance(value, Integral):
        share = float(value)
    elif isinstance(value, str) and _RATIO.fullmatch(value):
        above, below = map(int, value.split("/"))
        share = above / below if below else math.nan
    if 0.0 < share <= 1.0:
        return share
    raise problem(
        f"got {value!r}; expected a whole number of at least 1 (a count), a number with a decimal "
        "point above 0.0 and up to 1.0 or a ratio such as 1/9 (a fraction), or nothing"
    )


_Number = Annotated[StrictInt, Field(ge=1)] | Annotated[StrictFloat, Field(gt=0.0, le=1.0)] | None

CountOrFraction = Annotated[
    _Number,
    BeforeValidator(
        _count_or_fraction,
        json_schema_input_type=_Number | Annotated[str, Field(pattern=f"^{_RATIO.pattern}$")],
    ),
]
"""A count as a whole number, a fraction with a decimal point or as ``"1/9"``, or None."""


class TwigSpec(Spec):
    """What a twig is: the base it grows on, where it branches off, and what it carries."""

    base: str = Field(
        description="Folder or Hub id of the base model that the twig grows on.", min_length=1
    )
    revision: str | None = Field(
        None, description="Revision of the base model on the Hub; None for its default."
    )
    exit_layer: int = Field(
        2,
        ge=0,
        le=1024,
        description="Base layers that the twig shares; it grows on the last one's output.",
    )
    depth: int = Field(3, ge=1, le=64, description="Number of twig layers.")
    init: Literal["copy", "last", "random"] = Field(
        "copy",
        description="Where twig layers start: copies of the base layers after the exit layer, "
        "copies of the last base layers, or random weights.",
    )
    heads: dict[HeadName, HeadField] = Field(
        default_factory=lambda: {"lm": HeadSpec(kind="lm")},
        validate_default=True,
        description="Heads on the twig, by the name under which strategies ask for them.",
    )


def _spec_or_folder(value: object) -> str:
    """Tell a twig's folder from a twig's spec."""
    return "=folder" if isinstance(value, str) else "=spec"


TwigField = Annotated[
    Annotated[TwigSpec, Tag("=spec")] | Annotated[StrictStr, Field(min_length=1), Tag("=folder")],
    Discriminator(_spec_or_folder),
]
"""A twig to grow, or the folder or Hub id of one that is there."""


class GenerationSpec(Spec):
    """How an answer is generated."""

    budget: CountOrFraction = Field(
        None,
        description="Average number of visual tokens per layer: a count, or a fraction of the "
        "prompt's visual tokens in (0, 1]; None and 1.0 prune nothing.",
    )
    wipe_layer: CountOrFraction = Field(
        None,
        description="Layer after which no visual token is left: a count of base layers, or a "
        "fraction of them in (0, 1]; None leaves it to the pruner. The depth itself wipes nothing.",
    )
    strict: bool = Field(
        False,
        description="Whether a budget that a prompt cannot meet is an error; otherwise it is met "
        "as nearly as the layers allow.",
    )
    pruner: PrunerField = Field(
        default_factory=lambda: PrunerSpec(kind="ttp"),
        validate_default=True,
        description="Chooses the visual tokens that stay; used when there is a budget.",
    )
    drafter: DrafterField = Field(
        default_factory=lambda: DrafterSpec(kind="ssd"),
        validate_default=True,
        description="Proposes the tokens that the target verifies.",
    )
    draft_cache: Literal["full", "kept"] = Field(
        "full",
        description="Prompt tokens that the twig keeps for drafting: all, as published, or those "
        "that the base keeps after the exit layer.",
    )
    max_new_tokens: int = Field(128, ge=1, description="Most tokens to generate.")
    stop: tuple[str, ...] = Field((), description="Strings at which generation stops.")
    do_sample: bool | None = Field(
        None,
        description="Whether tokens are drawn instead of taking the most likely ones; None leaves "
        "it to the base's generation config, like every None below.",
    )
    temperature: float | None = Field(
        None,
        ge=1e-30,
        description="Divides the logits before a token is drawn; from 1e-30, so that they stay "
        "finite.",
    )
    top_k: int | None = Field(
        None, ge=0, description="Draw from the k most likely tokens only; 0 draws from all."
    )
    top_p: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Draw from the smallest set of most likely tokens with this probability.",
    )
    min_p: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Draw no token below this share of the most likely one's probability.",
    )
    seed: int | None = Field(
        None,
        description="Of what is drawn: the same seed gives the same tokens; None draws a seed.",
    )
    repetition_penalty: float | None = Field(
        None,
        ge=1e-30,
        le=1e30,
        description="Divides positive and multiplies negative logits of tokens that prompt or "
        "answer hold, drawn or not; 1 changes nothing.",
    )

    @model_validator(mode="after")
    def _sampling_belongs_together(self) -> GenerationSpec:
        """Refuse settings that would be ignored because no token is drawn."""
        for name in ("temperature", "top_k", "top_p", "min_p", "seed"):
            value = getattr(self, name)
            if value is not None and not self.do_sample:
                raise problem(
                    f"{name} is {value}, which counts only where tokens are drawn; set do_sample "
                    f"to true, or leave {name} out"
                )
        return self

    def options(self) -> dict[str, Any]:
        """Return the settings as arguments of ``TwigModel.generate``.

        Those that are left to the base's generation config are not among them. Stop strings need
        the argument ``tokenizer`` besides.
        """
        options = {name: getattr(self, name) for name in type(self).model_fields if name != "stop"}
        kept = {"budget", "wipe_layer"}
        options = {k: v for k, v in options.items() if v is not None or k in kept}
        return {**options, "stop_strings": list(self.stop)} if self.stop else options


def _named_schema(names: list[str]) -> JsonSchemaValue:
    """Describe a mapping that names one of some plug-ins, whatever its settings."""
    return {
        "type": "object",
        "properties": {"kind": {"type": "string", "enum": names}},
        "required": ["kind"],
    }


def _bare_schema(name: str) -> JsonSchemaValue:
    """Describe the mapping of a plug-in without settings."""
    return {
        "type": "object",
        "properties": {"kind": {"const": name, "type": "string"}},
        "required": ["kind"],
        "additionalProperties": False,
    }


__all__ = [
    "ByKind",
    "DrafterField",
    "DrafterSpec",
    "GenerationSpec",
    "HeadField",
    "HeadSpec",
    "ObjectiveField",
    "ObjectiveSpec",
    "PluginSpec",
    "PrunerField",
    "PrunerSpec",
    "Spec",
    "TwigField",
    "TwigSpec",
]
