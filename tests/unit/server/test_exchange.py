"""Prompts in the engine's hands: all have room or none, and a client that goes away frees it."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request

from tests.support.served import served_model
from tests.support.tiny import llava_inputs
from twigkit.errors import CapabilityError
from twigkit.inflight.engine import Engine, QueueFullError
from twigkit.inflight.request import Ended, InflightRequest
from twigkit.server.exchange import Exchange, GoneError
from twigkit.specs.run import DrafterSpec


@pytest.fixture(scope="module")
def model():
    return served_model()


def request(gone):
    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


def asked():
    settings = {"max_new_tokens": 3}
    return InflightRequest(llava_inputs([(3, 0, 2)]), DrafterSpec(kind="plain"), settings)


def test_prompts_have_room_together_or_not_at_all(model):
    async def run(engine):
        other = engine.reserve(1)
        with pytest.raises(QueueFullError):
            Exchange(engine, request(asyncio.Event()), prompts=2, answers=1)
        other.cancel()
        exchange = Exchange(engine, request(asyncio.Event()), prompts=2, answers=1)
        for number in range(2):
            exchange.submit(number, asked())
        ended = set()
        async for number, event in exchange.events():
            ended |= {number} if isinstance(event, Ended) else set()
            if len(ended) == 2:
                break
        exchange.close()

    with Engine(model, rows=1, queue=1) as engine:
        asyncio.run(run(engine))


def test_prompts_that_never_have_room_are_not_asked_to_come_again(model):
    async def run(engine):
        with pytest.raises(CapabilityError, match=r"6 answers .* takes 5 .*ask in several"):
            Exchange(engine, request(asyncio.Event()), prompts=3, answers=2)

    with Engine(model, rows=2, queue=3) as engine:
        asyncio.run(run(engine))


def test_a_client_that_goes_away_ends_the_exchange(model):
    async def run(engine):
        gone = asyncio.Event()
        exchange = Exchange(engine, request(gone), prompts=2, answers=1)
        gone.set()
        with pytest.raises(GoneError):
            await anext(exchange.events())
        exchange.submit(0, asked())  # nobody waits for it
        for ticket in [engine.reserve(1), engine.reserve(1)]:  # all its room is free again
            ticket.cancel()

    with Engine(model, rows=1, queue=1) as engine:
        asyncio.run(run(engine))
