"""Markers that skip with a reason, and fake distributions for the tests of discovery."""

from __future__ import annotations

import gc
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--hub", action="store_true", help="run the tests that need the model hub")
    parser.addoption(
        "--device", default="cuda", help="what tests/gpu runs on; cpu needs no accelerator"
    )


def pytest_collection_modifyitems(config, items):
    elsewhere = config.getoption("--device") != "cuda"
    on_gpu = [
        item
        for item in items
        if item.get_closest_marker("gpu") and not (elsewhere and "device" in item.fixturenames)
    ]
    if on_gpu and not _has_gpu():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator, and there is none"))
    if not config.getoption("--hub"):
        for item in items:
            if item.get_closest_marker("hub"):
                item.add_marker(pytest.mark.skip(reason="needs the model hub; give --hub to run"))


def pytest_collection_finish():
    """Spare every collection of garbage the walk through all that was imported."""
    gc.collect()
    gc.freeze()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def device(request):
    """What the tests of tests/gpu run on."""
    import torch

    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def same_numbers():
    """Let every test draw and compute the same numbers in every run, whatever ran before it."""
    import torch

    from twigkit.backbone.few_rows import stock_products

    torch.manual_seed(0)
    # Which way of computing a product is the fastest can differ from run to run.
    with stock_products():
        yield


@pytest.fixture
def fake_distribution(tmp_path, monkeypatch) -> Callable[..., Path]:
    """A function that writes an installed distribution into a folder of its own on ``sys.path``."""
    made: set[str] = set()

    def make(
        name: str,
        *,
        version: str = "1.0",
        plugins: dict[str, str] | None = None,
        commands: dict[str, str] | None = None,
        folder: str | None = None,
    ) -> Path:
        """``plugins`` and ``commands`` map module names to their source."""
        site = tmp_path / (folder or name)
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = []
        for group, modules in (("twigkit", plugins), ("twigkit.commands", commands)):
            lines.append(f"[{group}]")
            for module, source in (modules or {}).items():
                lines.append(f"{module} = {module}")
                (site / f"{module}.py").write_text(textwrap.dedent(source))
                made.add(module)
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(site))
        return site

    yield make
    for module in made:
        sys.modules.pop(module, None)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A tiny base with its processor, a twig on it and a picture (``checkpoints.Folders``)."""
    from tests.support.checkpoints import write_folders

    return write_folders(tmp_path_factory.mktemp("folders"))
