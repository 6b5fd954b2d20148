"""The site that `make docs` builds: pages, links and reference. mkdocs itself is not needed."""

import json
import re
from pathlib import Path

import yaml

import twigkit
from docs.scripts.site import (
    FENCE,
    OUTSIDE,
    ROOT,
    TOUR,
    bend,
    notebook_page,
    plain,
    reference,
    titled,
)
from tests.support.imports import floors


def pages(entries):
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from pages(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load(Path(ROOT / "mkdocs.yml").read_text())
    docs = ROOT / "docs"
    own = {path.relative_to(docs).as_posix() for path in docs.glob("*.md")}
    own |= {path.relative_to(docs).as_posix() for path in (docs / "recipes").glob("*.md")}
    made = {f"reference/{page}" for page in reference()}
    listed = list(pages(config["nav"]))
    assert sorted(listed) == sorted(
        own | made | set(OUTSIDE.values()) | {TOUR.with_suffix(".md").name}
    )


def test_links_are_bent_to_the_pages_of_the_site():
    assert bend("[a](docs/cli.md#x)", "README.md") == "[a](cli.md#x)"
    assert bend("[a](docs/tour.ipynb)", "README.md") == "[a](tour.md)"
    assert bend("[a](../CONTRIBUTING.md)", "docs/architecture.md") == "[a](contributing.md)"
    assert bend("[a](../../README.md)", "docs/recipes/head.md") == "[a](../index.md)"
    assert bend("![a](images/a.png)", "docs/concepts.md") == "![a](images/a.png)"
    assert bend("[a](https://a.b/c.md)", "README.md") == "[a](https://a.b/c.md)"


def test_a_fence_shows_its_file_and_hides_the_marks_of_the_tests():
    assert FENCE.sub(titled, "```python norm.py\n") == '```python title="norm.py"\n'
    assert FENCE.sub(titled, "```sh hub\n") == "```sh\n"


def test_the_reference_has_every_folder_and_every_public_name():
    found = reference()
    assert {page.removesuffix(".md") for page in found} == set(floors()) - {"cli", "demo"} | {
        "index"
    }
    names = re.findall(r"^\| \[`(\w+)`\]", found["index.md"], re.MULTILINE)
    assert set(names) == set(twigkit.__all__) - {"__version__"}


def test_roles_become_code():
    assert plain("a :class:`~twigkit.Twig` and :meth:`run`") == "a `twigkit.Twig` and `run`"


def test_an_example_is_shown_as_code():
    assert plain("A.\n\n    Example:\n        >>> 1\n") == "A.\n\n    Examples:\n        >>> 1\n"
    assert plain("For Example: no section") == "For Example: no section"


def test_the_notebook_becomes_a_page_with_all_that_it_shows():
    page = notebook_page(TOUR)
    code = list(re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    cells = [c for c in json.loads(TOUR.read_text())["cells"] if c["cell_type"] == "code"]
    assert len(code) == len(cells)
    for block, cell in zip(code, cells, strict=True):
        compile(block, "tour.ipynb", "exec")
        assert cell["outputs"], "run `make notebook`"
        said = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert said.rstrip() in page
    assert page.count("](data:image/jpeg;base64,") == 2
    assert "18 steps, accepted length 5.78" in page
