"""Hooks of mkdocs: pages outside docs/, the notebook, and the API reference from the docstrings.

README, CONTRIBUTING, CHANGELOG and the built-in model's card become pages of the site, their links
bent accordingly; every folder of the package becomes a page of the reference.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from tests.support.imports import MODULES, unit
from twigkit import _EXPORTS

ROOT = Path(__file__).parents[2]

OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
    "twigkit/demo/weights/base/README.md": "built-in-model.md",
}
"""Files outside docs/ and the pages that they become."""

TOUR = ROOT / "docs" / "tour.ipynb"
"""The notebook, which becomes a page of the same name."""

HIDDEN = ("cli", "demo")
"""Folders without a page of the reference: their commands are described in cli.md."""

ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):`~?([^`]+)`")

EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)

FENCE = re.compile(r"^```(\w+) ([\w./-]+)$", re.MULTILINE)

LINK = re.compile(r"(\]\()([^)#\s]+)([^)]*\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that have no file in docs/.

    Args:
        files: The files of docs/.
        config: The configuration of mkdocs.
    """
    from mkdocs.structure.files import File

    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text()
        text = text if source.endswith(".md") else f"# {source.title()}\n\n```text\n{text}```\n"
        files.append(File.generated(config, page, content=bend(text, source)))
    files.append(File.generated(config, "tour.md", content=notebook_page(TOUR)))
    for page, text in reference().items():
        files.append(File.generated(config, f"reference/{page}", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Bend the links of the pages in docs/ that lead out of it.

    Args:
        markdown: The page.
        page: Its place.
        config: The configuration of mkdocs.
        files: All files.
    """
    markdown = FENCE.sub(titled, markdown)
    if page.file.generated_by:
        return markdown
    return bend(markdown, f"docs/{page.file.src_uri}")


def plain(docstring: str) -> str:
    """Turn the roles of a docstring, such as ``:class:`Twig```, into code, and name its examples.

    mkdocstrings shows the prompts of a section ``Examples:`` as code, and knows no ``Example:``.
    """
    return EXAMPLE.sub(r"\1Examples:", ROLE.sub(r"`\1`", docstring))


def titled(fence: re.Match[str]) -> str:
    """Show the file that a fence names as its title; drop the marks that are for the tests."""
    title = f' title="{fence[2]}"' if "." in fence[2] else ""
    return f"```{fence[1]}{title}"


def bend(text: str, source: str) -> str:
    """Rewrite links between files of the checkout to links between pages of the site.

    Args:
        text: Markdown.
        source: Where it lies in the checkout.
    """
    page = place(source)

    def target(match: re.Match[str]) -> str:
        link = match[2]
        if "://" in link:
            return match[0]
        there = place(posixpath.normpath(posixpath.join(posixpath.dirname(source), link)))
        bent = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"{match[1]}{bent}{match[3]}"

    return LINK.sub(target, text)


def place(source: str) -> str:
    """Return the page that a file of the checkout becomes."""
    return OUTSIDE.get(source, source.removeprefix("docs/").replace(".ipynb", ".md"))


def notebook_page(path: Path) -> str:
    """Write a notebook as a page: its text, its code, and what that showed when it was run.

    Args:
        path: The notebook.
    """
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        outputs = cell.get("outputs", [])
        if said := "".join("".join(output.get("text", "")) for output in outputs).rstrip():
            parts.append(f"```text\n{said}\n```")
        for output in outputs:
            if picture := output.get("data", {}).get("image/jpeg"):
                parts.append(f"![What the cell shows](data:image/jpeg;base64,{picture.strip()})")
    parts.append(f"This page is a notebook: [{path.name}]({path.name}).")
    return "\n\n".join(parts) + "\n"


def reference() -> dict[str, str]:
    """Write the pages of the API reference: the public names, and one page per folder."""
    pages: dict[str, str] = {}
    folders: dict[str, list[str]] = {}
    for name in sorted(MODULES):
        if name != "twigkit" and unit(name) not in HIDDEN:
            folders.setdefault(unit(name), []).append(name)
    for folder, modules in folders.items():
        pages[f"{folder}.md"] = "\n\n".join(
            [f"# twigkit.{folder}", *(f"::: {module}" for module in modules), ""]
        )
    rows = [f"| [`{name}`][twigkit.{home}.{name}] | `twigkit.{home}` |"
            for name, home in sorted(_EXPORTS.items())]  # fmt: skip
    pages["index.md"] = "\n".join(
        [
            "# twigkit",
            "",
            "What `from twigkit import ...` gives; each name links to its description. The other "
            "pages of the reference have the package folder by folder.",
            "",
            "| name | defined in |",
            "|---|---|",
            *rows,
            "",
        ]
    )
    return pages
