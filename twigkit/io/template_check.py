"""Which chat templates are plain: what they render is bounded by what they are given.

A chat template comes with a base and is a program. One that only walks through a conversation and
puts its parts together cannot take long or render much, and is rendered like any other text.
Everything else is rendered in a process of its own (:mod:`twigkit.io.chat_templates`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

LARGEST = 2**20
"""Most characters of a chat template."""

_NODES = (
    "Add", "And", "AssignBlock", "Assign", "Break", "Compare", "Concat", "CondExpr", "Const",
    "Continue", "Dict", "Filter", "For", "Getattr", "Getitem", "If", "Keyword", "List", "Name",
    "Neg", "Not", "NSRef", "Operand", "Or", "Output", "Pair", "Slice", "Sub", "Template",
    "TemplateData", "Test", "Tuple", "Call", "Mod",
)  # fmt: skip
_FILTERS = (
    "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int",
    "items", "last", "length", "list", "lower", "map", "reject", "rejectattr", "reverse", "safe",
    "select", "selectattr", "string", "title", "tojson", "trim", "upper",
)  # fmt: skip
_METHODS = (
    "capitalize", "endswith", "get", "items", "keys", "lower", "lstrip", "replace", "rsplit",
    "rstrip", "split", "startswith", "strip", "title", "upper", "values",
)  # fmt: skip
_CALLS = frozenset({"namespace", "raise_exception"})
_LONGER = frozenset({"e", "escape", "tojson"})
"""Filters whose output may be twice as long as their input, or more."""

_GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")
"""Tags of transformers around an answer, which render nothing."""

_LARGEST_NUMBER = 10_000
_MOST_GROWTH = 4096
"""How many times as long as what is given a text may become by assignments."""


@functools.lru_cache(maxsize=64)
def is_plain(template: str) -> bool:
    """Say whether a template is plain, by its syntax alone.

    Loops run over parts of what is given, each inside of the one around it; no text is repeated,
    padded or nested, nothing calls itself, and what a loop carries along only has things appended.

    Args:
        template: A chat template.

    Returns:
        False also where it cannot be read.
    """
    from jinja2 import Environment, TemplateError, nodes

    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(
            _GENERATION.sub("", template)
        )
    except (TemplateError, RecursionError, ValueError, MemoryError):
        return False
    every: list[Any] = [tree, *tree.find_all(nodes.Node)]
    if not all(type(node).__name__ in _NODES and _harmless(node, nodes) for node in every):
        return False
    return _loops_inward(tree, nodes, None) and _grows_little(tree, nodes)


def _harmless(node: Any, nodes: Any) -> bool:
    """Say whether a part of a template does nothing beyond its own length."""
    if isinstance(node, nodes.Const):
        return not isinstance(node.value, int | float) or abs(node.value) <= _LARGEST_NUMBER
    if isinstance(node, nodes.Mod):  # which also formats text
        return isinstance(node.left, nodes.Getattr) and _named(node.left.node) == "loop"
    if isinstance(node, nodes.For):
        return not node.recursive
    if isinstance(node, nodes.Filter):
        fixed = all(isinstance(a, nodes.Const) for a in node.args)
        fixed = fixed and all(isinstance(k.value, nodes.Const) for k in node.kwargs)
        by_name = node.name == "map" and (
            node.args or [k.key for k in node.kwargs] != ["attribute"]
        )
        return node.name in _FILTERS and fixed and not by_name
    if isinstance(node, nodes.Call):
        if isinstance(node.node, nodes.Getattr):
            return node.node.attr in _METHODS and (
                node.node.attr != "replace" or _shortens(node.args, nodes)
            )
        return _named(node.node) in _CALLS
    return True


def _named(node: Any) -> str | None:
    return getattr(node, "name", None)


def _shortens(args: list[Any], nodes: Any) -> bool:
    """Say whether text is replaced by text that is no longer."""
    if len(args) < 2 or not all(isinstance(arg, nodes.Const) for arg in args[:2]):
        return False
    old, new = str(args[0].value), str(args[1].value)
    return 0 < len(old) >= len(new)


def _loops_inward(node: Any, nodes: Any, around: Any) -> bool:
    """Say whether every loop inside of another runs over a part of that one's items."""
    for child in node.iter_child_nodes():
        inner = around
        if isinstance(child, nodes.For):
            if around is not None:
                targets = {name for name, _ in _names(around.target, nodes)}
                made = (nodes.Add, nodes.Concat, nodes.List, nodes.Tuple, nodes.Dict)
                mentions = {name for name, _ in _names(child.iter, nodes)}
                copies = isinstance(child.iter, made) or any(child.iter.find_all(made))
                if not mentions & targets or len(mentions) > 1 or copies:
                    return False
            inner = child
        if not _loops_inward(child, nodes, inner):
            return False
    return True


def _names(node: Any, nodes: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names in an expression."""
    if isinstance(node, nodes.Name | nodes.NSRef):
        yield node.name, node
    for child in node.find_all((nodes.Name, nodes.NSRef)):
        yield child.name, child


def _grows_little(tree: Any, nodes: Any) -> bool:
    """Say whether no text becomes much longer by assigning it over and over.

    A plain name begins anew in every round of a loop, so its assignments count once each; an
    attribute of a namespace does not, and may only have things appended.
    """
    assigned = {
        name for each in tree.find_all(nodes.Assign) for name, _ in _names(each.target, nodes)
    }
    carried = {name for each in tree.find_all(nodes.NSRef) for name, _ in _names(each, nodes)}
    if any(tree.find_all(nodes.AssignBlock)):
        return False
    assigned, carried = _derived(tree, nodes, assigned), _derived(tree, nodes, carried)
    looped = {id(one) for loop in tree.find_all(nodes.For) for one in loop.find_all(nodes.Assign)}
    growth = 1
    for each in tree.find_all(nodes.Assign):
        filters = {one.name for one in each.node.find_all(nodes.Filter)}
        if isinstance(each.node, nodes.Filter):
            filters.add(each.node.name)
        if isinstance(each.target, nodes.NSRef) and id(each) in looped:
            if _count(each.node, nodes, carried) > 1 or filters & _LONGER:
                return False
        else:
            growth *= max(1, _count(each.node, nodes, assigned)) * (8 if filters & _LONGER else 1)
    return growth <= _MOST_GROWTH


def _count(node: Any, nodes: Any, names: set[str]) -> int:
    return sum(name in names for name, _ in _names(node, nodes))


def _derived(tree: Any, nodes: Any, names: set[str]) -> set[str]:
    """Add the names whose values are made of those of others."""
    pairs = [(each.target, each.node) for each in tree.find_all(nodes.Assign)]
    pairs += [(each.target, each.iter) for each in tree.find_all(nodes.For)]
    found, before = set(names), -1
    while len(found) != before:
        before = len(found)
        for target, value in pairs:
            if _count(value, nodes, found):
                found |= {name for name, _ in _names(target, nodes)}
    return found


__all__ = ["LARGEST", "is_plain"]
