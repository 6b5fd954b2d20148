"""Reads what the modules of the package import, and the floors of docs/architecture.md."""

import ast
import re
from pathlib import Path

import twigkit

ROOT = Path(__file__).parents[2]
PLUGIN_FOLDERS = ("adapters", "heads", "strategies", "tasks")


def modules():
    """Every module of the package by dotted name, the plug-in folders included."""
    found = {}
    for folder, prefix in [(ROOT / "twigkit", "twigkit")] + [
        (ROOT / name, f"twigkit.{name}") for name in PLUGIN_FOLDERS
    ]:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if folder.name == "twigkit" and parts[0] in PLUGIN_FOLDERS:
                continue  # the links
            dotted = ".".join((prefix, *parts)).removesuffix(".__init__")
            found[dotted] = path
    return found


MODULES = modules()


def floors(text=None):
    """Unit (``errors``, ``cli``, ...) to floor, from the table."""
    text = (ROOT / "docs" / "architecture.md").read_text() if text is None else text
    table = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    return {unit: int(floor) for floor, units in table for unit in re.findall(r"`(\w+)`", units)}


def imports(source, package):
    """Names of the package that a source imports, as ``twigkit.x.y``.

    Imports for type checkers do not count; a name that ``twigkit`` re-exports counts as its home.
    """
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *filter(None, [node.module])])
            for alias in node.names:
                home = twigkit._EXPORTS.get(alias.name, alias.name)
                found.add(f"twigkit.{home}" if base == "twigkit" else f"{base}.{alias.name}")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return {name for name in found if name.split(".")[0] == "twigkit"}


def package_of(name):
    """The package that relative imports of a module start from."""
    return name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]


def imported_modules(name):
    """The modules of the package that one module imports."""
    found = set()
    for target in imports(MODULES[name].read_text(), package_of(name)):
        while target and target not in MODULES:
            target = target.rpartition(".")[0]
        found.add(target)
    return found - {name, "twigkit", ""}


def unit(name):
    """The part of a dotted name that has a floor: ``twigkit.cli.main`` is of ``cli``."""
    return {"__main__": "cli"}.get(name.split(".")[1], name.split(".")[1])


def edges():
    return {name: imported_modules(name) for name in MODULES if name != "twigkit"}


def folder_edges(found=None):
    """The same between units: which folders a folder imports."""
    between = {}
    for source, targets in (edges() if found is None else found).items():
        others = between.setdefault(unit(source), set())
        others |= {unit(target) for target in targets} - {unit(source)}
    return between
