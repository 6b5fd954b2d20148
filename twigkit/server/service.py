"""What the endpoints do: read a request, ask the engine, and write answers whole or as a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError

from twigkit.errors import TwigkitError
from twigkit.inflight.engine import Engine
from twigkit.inflight.request import Event, InflightRequest
from twigkit.server.answer import Piece, Reply
from twigkit.server.exchange import Exchange, GoneError
from twigkit.server.metrics import Metrics
from twigkit.server.prompt import PromptReader, Shown
from twigkit.server.protocol import ChatBody, CompletionBody, Sampled
from twigkit.server.refusal import RefusedError, body_of, refusal_of
from twigkit.server.response import Kind, ResponseWriter
from twigkit.server.settings import ServerSpec

Body = TypeVar("Body", bound=Sampled)
Events = AsyncIterator[tuple[int, Event]]

MOST_PROMPTS = 128
"""Most prompts of one completion request."""

CLIENT_GONE = 499
"""Status that is logged where nobody reads the response."""


class Service:
    """Answers chats and completions.

    Attributes:
        engine: Generates.
        metrics: Counts.
        spec: Settings and limits.
    """

    def __init__(
        self, engine: Engine, reader: PromptReader, spec: ServerSpec, metrics: Metrics
    ) -> None:
        """Put the parts together."""
        self.engine, self._reader, self.spec, self.metrics = engine, reader, spec, metrics
        self._fetching = ThreadPoolExecutor(spec.max_num_seqs + spec.max_queue)

    async def chat(self, request: Request) -> Response:
        """Answer ``/v1/chat/completions``."""
        body = await self._body(request, ChatBody)
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await self._answer(request, body, "chat", [partial(self._read_chat, body)], usage)

    async def _read_chat(self, body: ChatBody) -> tuple[InflightRequest, Shown]:
        """Read a chat; a slow host of its pictures holds up nobody else."""
        urls, fetched = self._reader.elsewhere(body), None
        if urls:
            loop = asyncio.get_running_loop()
            fetched = await loop.run_in_executor(self._fetching, self._reader.fetch, urls)
        return await asyncio.to_thread(self._reader.chat, body, fetched)

    async def completion(self, request: Request) -> Response:
        """Answer ``/v1/completions``."""
        body = await self._body(request, CompletionBody)
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if not 1 <= len(prompts) <= MOST_PROMPTS:
            raise RefusedError(
                f"{len(prompts)} prompts; give between 1 and {MOST_PROMPTS}", param="prompt"
            )
        reads = [partial(asyncio.to_thread, self._reader.completion, body, p) for p in prompts]
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await self._answer(request, body, "text", reads, usage)

    async def _answer(
        self,
        request: Request,
        body: Sampled,
        kind: Kind,
        reads: Sequence[Callable[[], Awaitable[tuple[InflightRequest, Shown]]]],
        usage: bool,
    ) -> Response:
        """Ask the engine and answer."""
        exchange = Exchange(self.engine, request, len(reads), body.n)
        trace = body.twigkit.trace
        replies = [
            Reply(self._reader.tokenizer, body.n, body.stops, self.metrics, trace=trace)
            for _ in reads
        ]
        writer = ResponseWriter(kind, self.spec.model_name, self._reader.tokenizer, usage=usage)
        try:
            for number, read in enumerate(reads):
                asked, replies[number].shown = await read()
                exchange.submit(number, asked)
            events = exchange.events()
            if not body.stream:
                made = await self._whole(events, replies, writer, body)
                exchange.close()
                return JSONResponse(made)
            # What cannot be answered at all fails here, while there is a status to say so.
            first = await anext(events)
        except GoneError:
            exchange.close()
            self._give_up(replies)
            return Response(status_code=CLIENT_GONE)
        except TwigkitError:
            exchange.close()
            raise
        except (Exception, asyncio.CancelledError) as error:  # a defect ends this request alone
            exchange.close()
            raise refusal_of(error) from error
        stream = self._stream(exchange, events, first, replies, writer, body)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    def _give_up(self, replies: list[Reply]) -> None:
        """Count the answers that nobody waits for any more."""
        for answer in (answer for reply in replies for answer in reply.answers):
            if not answer.done:
                self.metrics.ended("abort")

    async def _whole(
        self, events: Events, replies: list[Reply], writer: ResponseWriter, body: Sampled
    ) -> dict[str, Any]:
        """Wait for all answers; return the response's body."""
        pieces: list[tuple[int, Piece]] = []
        async for number, event in events:
            piece = replies[number].take(event)
            if piece is not None:
                pieces.append((number * body.n + piece.answer, piece))
            if all(reply.done for reply in replies):
                break
        made = writer.body(pieces, replies)
        if body.twigkit.trace:
            made["twigkit"] = {"prompts": [reply.summary() for reply in replies]}
        return made

    async def _stream(
        self,
        exchange: Exchange,
        events: Events,
        first: tuple[int, Event],
        replies: list[Reply],
        writer: ResponseWriter,
        body: Sampled,
    ) -> AsyncIterator[str]:
        """Write chunks as they come; whoever stops reading cancels the request."""
        try:
            for number in range(len(replies) * body.n):
                yield _sent(writer.first_chunk(number))
            async for text in self._chunks(events, first, replies, writer, body):
                yield text
            if body.twigkit.trace:
                yield _sent(writer.trace_chunk(prompts=[reply.summary() for reply in replies]))
            if writer.usage:
                yield _sent(writer.usage_chunk(replies))
            yield "data: [DONE]\n\n"
        except GoneError:
            self._give_up(replies)
        except asyncio.CancelledError:  # the client has gone, or the server stops
            self._give_up(replies)
            raise
        except Exception as error:  # the status has been sent, so that the stream has to say it
            refusal = refusal_of(error)
            self.metrics.failed(refusal.status)
            yield _sent(body_of(refusal))
            yield "data: [DONE]\n\n"
        finally:
            exchange.close()

    async def _chunks(
        self,
        events: Events,
        first: tuple[int, Event],
        replies: list[Reply],
        writer: ResponseWriter,
        body: Sampled,
    ) -> AsyncIterator[str]:
        """Write the chunks of the answers."""
        number, event = first
        while True:
            reply = replies[number]
            piece = reply.take(event)
            if piece is not None:
                yield _sent(writer.chunk(number * body.n + piece.answer, piece))
            elif body.twigkit.trace:
                yield _sent(writer.trace_chunk(prompt=number, begun=reply.summary()))
            if all(each.done for each in replies):
                return
            number, event = await anext(events)

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        """Read and check a request's body."""
        _check_type(request)
        try:
            async with asyncio.timeout(self.spec.request_seconds):
                raw = await self._bytes(request)
        except TimeoutError:
            raise RefusedError(
                f"the request did not arrive within {self.spec.request_seconds:g} s; send it again",
                status=408,
            ) from None
        except asyncio.CancelledError as error:
            raise refusal_of(error) from error
        try:
            body = kind.model_validate_json(raw)
        except ValidationError as error:
            raise _refused(error) from None
        if body.model is not None:
            self.check_model(body.model)
        return body

    def check_model(self, name: str) -> None:
        """Refuse another model than the one that is served.

        Raises:
            RefusedError: If it is another.
        """
        if name != self.spec.model_name:
            raise RefusedError(
                f"there is no model {name[:100]!r}; the server has {self.spec.model_name!r}",
                status=404,
                param="model",
            )

    async def _bytes(self, request: Request) -> bytes:
        """Read a body that is not too large."""
        raw = bytearray()
        async for part in request.stream():
            raw += part
            if len(raw) > self.spec.most_body_bytes:
                raise RefusedError(
                    f"the request has more than {self.spec.most_body_bytes:,} bytes; send smaller "
                    "or fewer pictures",
                    status=413,
                )
        return bytes(raw)


def _check_type(request: Request) -> None:
    """Refuse a body that is no JSON, or is compressed."""
    content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content != "application/json":
        raise RefusedError(
            f"the body is {content[:50] or 'of no type'}; send application/json", status=415
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise RefusedError(
            f"the body is compressed ({coding[:50]}); send it as it is",
            status=415,
            headers={"Accept-Encoding": "identity"},
        )


def _sent(chunk: dict[str, Any] | None) -> str:
    """Write a chunk as an event; nothing for none."""
    if chunk is None:
        return ""
    return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"


def _refused(error: ValidationError) -> RefusedError:
    """Say what is wrong with a body: its first problems."""
    problems = error.errors(include_url=False, include_input=False)
    lines = [".".join(map(str, p["loc"])) + f": {_told(p)}" for p in problems[:5]]
    first = problems[0]
    field = str(first["loc"][0]) if first["loc"] else first.get("ctx", {}).get("name")
    return RefusedError("; ".join(line.removeprefix(": ") for line in lines), param=field)


def _told(problem: Any) -> str:
    """Say what is wrong with one field."""
    if problem["type"] == "extra_forbidden":
        return "there is no such field; leave it out, or mend its name"
    return str(problem["msg"])


__all__ = ["Service"]
