"""The application: routes, authentication, and errors in OpenAI's format."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from twigkit.errors import CapabilityError, TwigkitError
from twigkit.generation.arguments import check_fields
from twigkit.inflight.engine import Engine
from twigkit.model import TwigModel
from twigkit.server.fetch import Fetcher
from twigkit.server.media import MediaReader
from twigkit.server.metrics import Metrics
from twigkit.server.prompt import PromptReader
from twigkit.server.refusal import RefusedError, body_of, refusal_of
from twigkit.server.service import CLIENT_GONE, Service
from twigkit.server.settings import ServerSpec

_PAGE = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_ENDPOINTS = "/v1/chat/completions, /v1/completions and /v1/models"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create_app(
    model: TwigModel, processor: Any, spec: ServerSpec, *, fetcher: Fetcher | None = None
) -> FastAPI:
    """Make the application; its engine starts at once and is closed with it.

    Args:
        model: The model that answers.
        processor: Its processor, or its tokenizer if it takes text only.
        spec: Settings and limits.
        fetcher: Fetches pictures; ``None`` for one with the limits of the settings.

    Returns:
        An ASGI application.

    Raises:
        CapabilityError: If the base's own generation config asks for what is not done, so that no
            request could be answered.
    """
    _check_base(model)
    engine = Engine(model, rows=spec.max_num_seqs, queue=spec.max_queue)
    metrics = Metrics(spec.model_name, lambda: engine.running, lambda: engine.waiting)
    fetcher = fetcher or Fetcher(
        spec.allowed_media_domains, most_bytes=spec.most_image_bytes, seconds=spec.fetch_seconds
    )
    reader = PromptReader(model, processor, spec, MediaReader(spec, fetcher))
    service = Service(engine, reader, spec, metrics)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="twigkit", lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.engine = engine
    _add_api(app, service, reader.context)
    _add_page(app)
    _add_errors(app, metrics)
    return app


def _check_base(model: TwigModel) -> None:
    """Refuse a base of which every request would be refused."""
    try:
        check_fields(model.generation_config, called=(), own=())
    except CapabilityError as error:
        raise CapabilityError(
            f"no request could be answered: {error}. Requests have no such field, so change "
            "generation_config.json in the base's folder"
        ) from error


def _add_api(app: FastAPI, service: Service, context: int) -> None:
    """Add the endpoints of OpenAI's API, and those for whoever runs the server."""
    key = service.spec.api_key

    async def authorised(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if key is None:
            return
        sent = given.encode("latin-1")  # which the bytes of headers are decoded as
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent, key.encode()):
            raise RefusedError(
                "the API key is missing or wrong; send it as Authorization: Bearer KEY", status=401
            )

    api = APIRouter(prefix="/v1", dependencies=[Depends(authorised)])
    began = int(time.time())

    own = {"id": service.spec.model_name, "object": "model", "created": began}
    own |= {"owned_by": "twigkit", "max_model_len": context}

    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [own]}

    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return own

    async def health() -> Response:
        return Response(status_code=200 if service.engine.alive else 503)

    async def metrics() -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(service.metrics.text(), headers={"Content-Type": kind})

    api.get("/models")(models)
    api.get("/models/")(models)
    api.get("/models/{name:path}")(model)
    api.post("/chat/completions")(service.chat)
    api.post("/completions")(service.completion)
    app.include_router(api)
    app.api_route("/health", methods=["GET", "HEAD"])(health)
    app.get("/metrics")(metrics)


def _add_page(app: FastAPI) -> None:
    """Add the page and its files."""
    folder = files("twigkit.server") / "page"
    content = {name: (folder / name).read_bytes() for name in _PAGE}

    def add(path: str, name: str) -> None:
        async def page() -> Response:
            return Response(content[name], media_type=_PAGE[name], headers=_PAGE_HEADERS)

        app.get(path)(page)

    for name in _PAGE:
        add("/" if name == "index.html" else f"/{name}", name)


def _add_errors(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error in OpenAI's format; tell nothing of unexpected ones."""

    def answer(refusal: RefusedError) -> Response:
        metrics.failed(refusal.status)
        return JSONResponse(body_of(refusal), refusal.status, headers=refusal.headers)

    async def failed(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            told = str(error.detail)
            if error.status_code == 404:
                told = f"there is no {request.url.path[:100]}; the API has {_ENDPOINTS}"
            return answer(RefusedError(told, status=error.status_code))
        return answer(refusal_of(error))

    async def gone(_: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    for kind in (TwigkitError, HTTPException):
        app.add_exception_handler(kind, failed)
    app.add_exception_handler(ClientDisconnect, gone)  # before its request was complete


__all__ = ["create_app"]
