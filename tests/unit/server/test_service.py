"""Bodies are read within their limit, and said what is wrong with."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request

from twigkit.server.metrics import Metrics
from twigkit.server.protocol import ChatBody
from twigkit.server.refusal import RefusedError
from twigkit.server.service import Service
from twigkit.server.settings import ServerSpec

SERVICE = Service(None, None, ServerSpec(most_body_bytes=200), Metrics("m", int, int))
GOOD = b'{"messages": [{"role": "user", "content": "hello"}]}'


def read(*parts, kind=b"application/json; charset=utf-8"):
    left = list(parts)

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    request = Request({"type": "http", "headers": [(b"content-type", kind)]}, receive)
    return asyncio.run(SERVICE._body(request, ChatBody))


def test_a_body_that_stays_away_is_not_waited_for():
    service = Service(None, None, ServerSpec(request_seconds=0.05), Metrics("m", int, int))
    request = Request(
        {"type": "http", "headers": [(b"content-type", b"application/json")]},
        lambda: asyncio.sleep(60),
    )
    with pytest.raises(RefusedError, match=r"did not arrive within 0\.05 s") as refused:
        asyncio.run(service._body(request, ChatBody))
    assert refused.value.status == 408


def test_a_body_may_come_in_parts():
    assert read(GOOD[:7], GOOD[7:]).messages[0].content == "hello"


@pytest.mark.parametrize(
    ("field", "told"),
    [(b'"twigkit": {"budgett": 3}', "twigkit.budgett"), (b'"temprature": 0.5', "temprature")],
)
def test_a_field_that_is_not_known_is_named(field, told):
    with pytest.raises(RefusedError) as caught:
        read(GOOD[:-1] + b", " + field + b"}")
    assert str(caught.value) == f"{told}: there is no such field; leave it out, or mend its name"


@pytest.mark.parametrize(
    ("parts", "kind", "status"),
    [
        ([GOOD], b"text/plain", 415),
        ([GOOD], b"", 415),
        ([b" " * 150, b" " * 150, GOOD], b"application/json", 413),
        ([b"{"], b"application/json", 400),
        ([b"[" * 190], b"application/json", 400),
        ([b"null"], b"application/json", 400),
        ([b"\xff"], b"application/json", 400),
        ([GOOD.replace(b"}]}", b'}], "model": "x"}')], b"application/json", 404),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(parts, kind, status):
    with pytest.raises(RefusedError) as caught:
        read(*parts, kind=kind)
    assert caught.value.status == status
