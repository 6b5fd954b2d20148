"""Errors in the format of OpenAI's API."""

from __future__ import annotations

import pytest

from twigkit.errors import BudgetError, InputError, TwigkitError
from twigkit.inflight.engine import ClosedError, OverdueError, QueueFullError
from twigkit.server.refusal import RefusedError, body_of, refusal_of


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InputError("the prompt\n  is empty"), 400, "invalid_request_error"),
        (BudgetError("too small"), 400, "invalid_request_error"),
        (RefusedError("no such model", status=404, param="model"), 404, "not_found_error"),
        (TwigkitError("inner matters"), 500, "internal_error"),
        (KeyError("inner matters"), 500, "internal_error"),
    ],
)
def test_what_a_client_is_told(error, status, kind):
    refusal = refusal_of(error)
    told = body_of(refusal)["error"]
    assert (refusal.status, told["type"], told["code"]) == (status, kind, status)
    assert "inner matters" not in told["message"]
    assert "\n" not in told["message"]
    assert told["param"] == ("model" if status == 404 else None)


def test_a_busy_server_says_when_to_come_again():
    refusal = refusal_of(QueueFullError("full", 7))
    assert (refusal.status, refusal.headers) == (429, {"Retry-After": "7"})
    for error in (OverdueError("too late"), ClosedError("too late")):
        refusal = refusal_of(error)
        assert (refusal.status, str(refusal)) == (503, "too late")
        assert body_of(refusal)["error"]["type"] == "unavailable_error"
