"""The base class of all specs: frozen, strict, and at home in YAML and JSON."""

from __future__ import annotations

import difflib
import json
import reprlib
from numbers import Integral
from pathlib import Path
from types import NoneType
from typing import Any, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from twigkit.errors import SpecError
from twigkit.io.files import expanded, read_regular

__all__ = ["CUSTOM", "Spec", "check_type", "problem", "read_yaml"]

_SPECIAL_KEYS = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Tags of the keys ``<<`` and ``=``, which the loader itself resolves."""


class _YamlLoader(yaml.SafeLoader):
    """Reads plain data, and refuses a key that is given twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping once its keys are known to differ."""
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        plain = [key for key in keys if key.tag not in _SPECIAL_KEYS]
        _mapping([(self.construct_object(key), None) for key in plain])
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read a whole number of bounded length, since Python shows no longer ones."""
        if len(node.value) > LONGEST_NUMBER:
            raise SpecError(
                f"a number of {len(node.value)} characters; expected {LONGEST_NUMBER} at most"
            )
        return int(super().construct_yaml_int(node))


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_yaml_int)

LARGEST = 2**20
"""Most bytes of a document, and most characters and values once its aliases are resolved."""

LONGEST_NUMBER = 1000
"""Most characters of a whole number in YAML."""

CUSTOM = "twigkit"
"""Type of the validation problems whose message needs no more explaining."""


TYPE = "="
"""Begins the tags of a field's types, which say nothing of where a problem is."""


class Spec(BaseModel):
    """Settings that cannot change after validation and know no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **data: Any) -> None:
        """Validate the settings.

        Args:
            **data: One value per field.

        Raises:
            SpecError: If a value does not fit; the message holds one line per problem.
        """
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise _spec_error(type(self), error) from None

    # Tells pydantic that this constructor adds no behaviour of its own, so that a spec inside
    # another one is validated in place and its problems carry the full path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse to change a field.

        Raises:
            SpecError: Always.
        """
        raise SpecError(
            f"{type(self).__name__} is frozen: cannot set {name!r}; use .replace({name}=...)"
        )

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, data: object) -> object:
        """Refuse unknown fields with the names of the known ones."""
        if isinstance(data, dict):
            for name in data:
                if name not in cls.model_fields:
                    raise problem(_unknown_field(str(name), list(cls.model_fields)))
        elif not isinstance(data, cls):
            given = "nothing" if data is None else _short(data)
            raise problem(f"got {given}; expected a mapping of {', '.join(cls.model_fields)}")
        return data

    @field_validator("*", mode="before")
    @classmethod
    def _plain_type(cls, value: object, info: ValidationInfo) -> object:
        """Refuse numbers and words that would have to be turned into another type to fit."""
        check_type(cls.model_fields[str(info.field_name)].annotation, value)
        return value

    @classmethod
    def parse(cls, data: object, *, context: dict[str, Any] | None = None) -> Self:
        """Validate plain data, such as a mapping read from a file.

        Args:
            data: A mapping of field names to values, or an instance.
            context: Validation context; ``{"registry": ...}`` resolves kinds against that registry.

        Returns:
            The validated spec.

        Raises:
            SpecError: If the data do not fit; the message holds one line per problem.
        """
        try:
            return cls.model_validate(data, context=context)
        except ValidationError as error:
            raise _spec_error(cls, error) from None

    def replace(self, **changes: Any) -> Self:
        """Copy the spec with some fields changed and everything validated again.

        Args:
            **changes: New values by field name.

        Returns:
            The changed copy.

        Raises:
            SpecError: If a changed value does not fit.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **changes})

    @classmethod
    def from_yaml(cls, text: str) -> Self:
        """Read a spec from YAML text.

        Args:
            text: The document.

        Returns:
            The validated spec.

        Raises:
            SpecError: If the text is not YAML or does not fit.
        """
        try:
            return cls.parse(read_yaml(text))
        except RecursionError:  # what is nested too deep for the validation
            raise SpecError("the document is nested too deep; mend it and try again") from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a spec from JSON text.

        Args:
            text: The document.

        Returns:
            The validated spec.

        Raises:
            SpecError: If the text is not JSON or does not fit.
        """
        try:
            data = json.loads(text, object_pairs_hook=_mapping)
        except (ValueError, RecursionError) as error:  # the second for what is nested too deep
            raise SpecError(
                f"not valid JSON: {_flat(error)}; mend the document and try again"
            ) from None
        return cls.parse(data)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a spec from a ``.yaml``, ``.yml`` or ``.json`` file.

        Args:
            path: The file.

        Returns:
            The validated spec.

        Raises:
            SpecError: If the file cannot be read, has another ending, or does not fit.
        """
        path = Path(expanded(path))
        readers = {".yaml": cls.from_yaml, ".yml": cls.from_yaml, ".json": cls.from_json}
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise SpecError(f"{path}: expected a file that ends in .yaml, .yml or .json")
        try:
            text = read_regular(path, LARGEST).decode("utf-8")
        except (OSError, ValueError) as error:
            raise SpecError(f"{path}: cannot be read: {_flat(error)}; check the path") from None
        try:
            return reader(text)
        except SpecError as error:
            raise SpecError(
                "\n".join(f"{path}: {line}" for line in str(error).split("\n"))
            ) from None

    def to_yaml(self) -> str:
        """Write the spec as YAML that :meth:`from_yaml` reads back as an equal spec.

        Returns:
            The document, fields in the order of the class.
        """
        data = self.model_dump(mode="json")
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)

    def to_json(self) -> str:
        """Write the spec as JSON that :meth:`from_json` reads back as an equal spec.

        Returns:
            The document, indented by two.
        """
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Describe the spec as JSON Schema, with every registered kind of plug-in.

        Returns:
            The schema.
        """
        return cls.model_json_schema()


def read_yaml(text: str) -> Any:
    """Read plain data from YAML, within bounds of size.

    Args:
        text: The document.

    Returns:
        The data.

    Raises:
        SpecError: If the text is not YAML, gives a key twice, or is larger than :data:`LARGEST`,
            its aliases resolved.
    """
    try:
        if len(text) > LARGEST:
            raise SpecError(f"the document has {len(text):,} characters, more than {LARGEST:,}")
        loader = _YamlLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > LARGEST:
                raise SpecError(f"its aliases stand for more than {LARGEST:,} characters")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except SpecError:
        raise
    except Exception as error:  # constructors of values raise whatever their parts raise
        raise SpecError(
            f"not valid YAML: {_flat(error)}; mend the document and try again"
        ) from None


def _size(node: Any, known: dict[int, int]) -> int:
    """Count the characters and values of a node of YAML; aliases count at every use."""
    if id(node) not in known:
        known[id(node)] = LARGEST + 1  # as seen from inside of it
        if isinstance(node, yaml.ScalarNode):
            size = len(node.value)
        elif isinstance(node, yaml.MappingNode):
            size = sum(_size(part, known) for pair in node.value for part in pair)
        else:
            size = sum(_size(part, known) for part in node.value)
        known[id(node)] = size + 1
    return known[id(node)]


def problem(message: str) -> PydanticCustomError:
    """Make a validation problem for a validator to raise.

    Args:
        message: What was given, what was expected, what to do.

    Returns:
        The problem; pydantic adds where it happened.

    Example:
        >>> from pydantic import field_validator
        >>> class EvenSpec(Spec):
        ...     number: int
        ...     @field_validator("number")
        ...     @classmethod
        ...     def _even(cls, number):
        ...         if number % 2:
        ...             raise problem(f"got {number}; expected an even number")
        ...         return number
        >>> EvenSpec(number=3)
        Traceback (most recent call last):
        twigkit.errors.SpecError: EvenSpec.number: got 3; expected an even number
    """
    return PydanticCustomError(CUSTOM, "{message}", {"message": message})


def check_type(annotation: Any, value: object) -> None:
    """Refuse a value that pydantic would turn into a whole number, a truth value or a number.

    Words are taken for numbers with a decimal point, because YAML reads ``1e-4`` as a word.

    Args:
        annotation: What the field holds; only ``int``, ``bool`` and ``float``, or None besides,
            are looked at.
        value: What was given.

    Raises:
        PydanticCustomError: If it is of another type: 3.0, true or "3" for a whole number, "yes"
            or 1 for a truth value, true for a number.
    """
    wanted = annotation if isinstance(annotation, type) else set(get_args(annotation)) - {NoneType}
    truth = isinstance(value, bool)
    if value is None:
        return
    if wanted in (int, {int}) and (truth or not isinstance(value, Integral)):
        raise problem(f"got {_short(value)}; expected a whole number, such as 3")
    if wanted in (bool, {bool}) and not truth:
        raise problem(f"got {_short(value)}; expected true or false")
    if wanted in (float, {float}) and truth:
        raise problem(f"got {_short(value)}; expected a number")


def _unknown_field(name: str, known: list[str]) -> str:
    """Say which fields there are and which one was probably meant."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown field {name!r}{hint}; known: {', '.join(known)}"


def _spec_error(cls: type[Spec], error: ValidationError) -> SpecError:
    """Rewrite pydantic's report as one line per problem, also where a value may have two types."""
    problems: dict[tuple[str, str], list[str]] = {}
    for found in error.errors(include_url=False):
        place = [cls.__name__, *(p for p in map(str, found["loc"]) if not p.startswith(TYPE))]
        field = place[:-1] if place[-1] in ("int", "float") else place
        problems.setdefault((".".join(field), _explain(found)), []).append(".".join(place))
    lines = [
        f"{field if len(places) > 1 else places[0]}: {text}"
        for (field, text), places in problems.items()
    ]
    return SpecError("\n".join(lines))


def _explain(found: Any) -> str:
    """Say what is wrong with one value, what was given, and what to do."""
    if found["type"] == "missing":
        return "this field is required; give it a value"
    if found["type"] == CUSTOM:
        return str(found["msg"])
    message = found["msg"]
    return f"got {_short(found['input'])}; {message[0].lower()}{message[1:]}"


def _short(value: object) -> str:
    """Show a value in 60 characters at most."""
    given = reprlib.repr(value)
    return given if len(given) <= 60 else given[:57] + "..."


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Build a mapping, and refuse a key that is given twice instead of dropping the first value."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise SpecError(f"the key {key!r} is given twice in one mapping; keep one of them")
        found[key] = value
    return found


def _flat(error: Exception) -> str:
    """Put a parser's message on one line."""
    return " ".join(str(error).split())
