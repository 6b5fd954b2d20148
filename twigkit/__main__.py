"""Run the command line as ``python -m twigkit``."""

from __future__ import annotations

from twigkit.cli.main import entry

entry()
