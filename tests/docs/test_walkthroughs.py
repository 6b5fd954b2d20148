"""Pages that build one thing step by step are followed from top to bottom."""

import sys
from pathlib import Path

import pytest
import torch

from tests.support.document import agrees, carry_out, fences, follow

DOCS = Path(__file__).parents[2] / "docs"
WALKTHROUGHS = ("concepts", "tutorial", "porting", "pruner-advanced")

torch.set_num_threads(1)


@pytest.mark.parametrize("name", WALKTHROUGHS)
def test_a_page_can_be_followed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    try:
        assert follow(DOCS / f"{name}.md") == sum(
            fence.language == "text" for fence in fences(DOCS / f"{name}.md")
        )
    finally:
        for module in set(sys.modules) - known:
            if (tmp_path / f"{module}.py").exists():
                del sys.modules[module]


def test_output_that_differs_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```python\nn = 3\nprint('kept', n)\n```\n\n```text\nkept 4\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:6.*\n?kept 3"):
        follow(page)
    assert agrees("kept ...\n", "kept 3\n")
    assert agrees("... of 4, loss 0.64\n", "3 of 4, loss 0.70\n")
    assert not agrees("... of 4, loss 0.64\n", "3 of 4, loss 0.90\n")
    assert not agrees("3 of 4, loss 0.64\n", "2 of 4, loss 0.64\n")


def test_a_command_that_is_none_would_be_noticed():
    with pytest.raises(AssertionError, match="no way to run"):
        carry_out("rm -rf build")
