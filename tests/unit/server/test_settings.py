"""The server's settings."""

from __future__ import annotations

import pytest

from twigkit.errors import SpecError
from twigkit.server.settings import ServerSpec


def test_settings_have_bounds():
    spec = ServerSpec()
    assert spec.drafter.kind == "ssd"
    assert spec.allowed_media_domains == ()
    for wrong in ({"max_num_seqs": 0}, {"budget": 0}, {"api_key": ""}, {"drafter": "sdd"}):
        with pytest.raises(SpecError):
            ServerSpec(**wrong)
