"""What a class must have to be registered, read from the contract of its kind.

The contract of a kind is the class of the same name in :mod:`twigkit.interfaces`: a protocol, of
which a plug-in needs all members, or a base class, of which it needs the abstract ones.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection
from typing import Any

from twigkit.errors import PluginError

__all__ = ["check_class", "check_instance", "check_spec", "contract"]

_ABSENT = object()
_NAMES = {
    "capabilities": "frozenset",
    "heads": "tuple",
    "model_types": "tuple",
    "text_models": "tuple",
}


def contract(kind: str) -> type[Any]:
    """Return the class that says what a plug-in of a kind must have.

    It is loaded on first use, since it needs torch and stands above the registry.

    Args:
        kind: Kind of plug-in, such as ``"drafter"``.
    """
    found: type[Any] = getattr(
        importlib.import_module(f"twigkit.interfaces.{kind}"), kind.capitalize()
    )
    return found


def check_class(kind: str, name: str, cls: type[Any]) -> None:
    """Refuse a class that its kind cannot use.

    Members that are set in ``__init__`` count if the class annotates them, as in
    ``heads: tuple[str, ...]``.

    Args:
        kind: Kind of plug-in.
        name: The name that it is to be registered by.
        cls: The class.

    Raises:
        PluginError: If it is not of the base class of its kind, or lacks members; names them and
            the page that describes them.
    """
    wanted = contract(kind)
    page = f"docs/recipes/{kind}.md describes it"
    protocol = _is_protocol(wanted)
    if not protocol and not issubclass(cls, wanted):
        raise PluginError(
            f"it registers {cls.__name__} as the {kind} {name!r}; expected a subclass of "
            f"twigkit.{wanted.__name__}; {page}"
        )
    annotated = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
    lacks = [] if not protocol or _accepts(wanted.__init__, cls) else ["__init__(self, spec)"]
    for member, declared in _members(wanted).items():
        found = inspect.getattr_static(cls, member, _ABSENT)
        if found is _ABSENT or found is declared or _is_abstract(found):
            required = protocol or _is_abstract(found)
            fits = not required or (member in annotated and not _is_method(declared))
        elif _is_method(declared):
            fits = _is_method(found) and _accepts(declared, found)
        else:
            fits = not _is_method(found)
        if not fits:
            lacks.append(_described(member, declared))
    for member, wanted_type in _NAMES.items():
        value = inspect.getattr_static(cls, member, _ABSENT)
        if not (value is _ABSENT or hasattr(value, "__get__") or _are_names(value)):
            raise PluginError(
                f"it registers {cls.__name__} as the {kind} {name!r}, whose {member} is {value!r}; "
                f"expected a {wanted_type} of names; {page}"
            )
    if lacks:
        raise PluginError(
            f"it registers {cls.__name__} as the {kind} {name!r}, which lacks {', '.join(lacks)}; "
            f"add what is missing, and annotate in the class what __init__ sets: {page}"
        )


def check_spec(kind: str, name: str, spec: Any) -> None:
    """Refuse a class of settings that does not validate as those of its kind do.

    Args:
        kind: Kind of plug-in.
        name: The name that it is to be registered by.
        spec: The class of its settings.

    Raises:
        PluginError: If it is not of the spec class of its kind, or belongs to another name.
    """
    wanted = getattr(
        importlib.import_module("twigkit.interfaces"), f"{kind.capitalize()}Spec", None
    )
    if wanted is None:
        raise PluginError(f"it registers the {kind} {name!r} with a spec; {kind}s have none")
    fits = isinstance(spec, type) and issubclass(spec, wanted)
    if not fits or spec.model_fields["kind"].default != name:
        raise PluginError(
            f"it registers the {kind} {name!r} with the spec {getattr(spec, '__name__', spec)!r}; "
            f"expected a subclass of twigkit.{wanted.__name__} with the field "
            f'`kind: Literal["{name}"] = "{name}"`'
        )


def check_instance(kind: str, thing: object) -> None:
    """Refuse an object that its kind cannot use, such as one that ``__init__`` left unfinished.

    No property is evaluated, and an object that answers for another one (``__getattr__``) is taken
    as it is.

    Args:
        kind: Kind of plug-in, one whose contract is a protocol.
        thing: The object.

    Raises:
        PluginError: If it lacks members; names them and the page that describes them.
    """
    if hasattr(type(thing), "__getattr__"):
        return
    lacks = [
        _described(name, declared)
        for name, declared in _members(contract(kind)).items()
        if inspect.getattr_static(thing, name, _ABSENT) is _ABSENT
    ]
    if lacks:
        raise PluginError(
            f"the {kind} {type(thing).__name__} lacks {', '.join(lacks)}; set it in the class "
            f"or in __init__: docs/recipes/{kind}.md describes it"
        )


def _members(wanted: type[Any]) -> dict[str, Any]:
    """Public members of a contract by name, as they lie in their class."""
    members: dict[str, Any] = {}
    for base in reversed(wanted.__mro__):
        if base.__module__.startswith("twigkit."):
            names = [*inspect.get_annotations(base), *vars(base)]
            members |= {n: vars(base).get(n) for n in names if not n.startswith("_")}
    return members


def _are_names(value: object) -> bool:
    """Whether a value is a collection of strings."""
    return (
        isinstance(value, Collection)
        and not isinstance(value, str)
        and all(isinstance(name, str) for name in value)
    )


def _is_protocol(cls: type[Any]) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _is_abstract(member: Any) -> bool:
    return bool(getattr(member, "__isabstractmethod__", False))


def _is_method(member: object) -> bool:
    """Whether a member, as it lies in its class, is called; a property is not."""
    return callable(member) or isinstance(member, classmethod | staticmethod)


def _accepts(declared: Any, found: Any) -> bool:
    """Whether something can be called with the arguments that the contract declares.

    Args:
        declared: The contract's method.
        found: The method of the same name, or the class itself for ``__init__``.
    """
    count = len(inspect.signature(_function(declared)).parameters)
    try:
        inspect.signature(_function(found)).bind(*range(count - isinstance(found, type)))
    except TypeError:
        return False
    return True


def _function(member: Any) -> Callable[..., Any]:
    """Return what a class method or static method wraps."""
    function: Callable[..., Any] = getattr(member, "__func__", member)
    return function


def _described(name: str, declared: Any) -> str:
    """Say what to add: a method with its arguments, or an attribute."""
    if not _is_method(declared):
        return name
    return f"{name}({', '.join(inspect.signature(_function(declared)).parameters)})"
