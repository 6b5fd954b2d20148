"""A tiny model behind the server's application, without a socket."""

from __future__ import annotations

import base64
import io
import json
import random
from typing import Any

import anyio
from PIL import Image
from starlette.testclient import TestClient

from tests.support.checkpoints import tiny_processor
from tests.support.tiny import tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.interfaces.tiny_models import spread_weights
from twigkit.server.app import create_app
from twigkit.server.settings import ServerSpec


def served_model() -> TwigModel:
    """Make a tiny base with a twig."""
    model = TwigModel(tiny_llava(seed=4))
    twig = model.grow(TwigSpec(base="tiny", exit_layer=2, depth=2)).eval()
    spread_weights(twig, seed=1)
    model.base.generation_config.eos_token_id = 7
    return model


def picture(seed: int = 0, size: tuple[int, int] = (16, 16), kind: str = "PNG") -> bytes:
    """Make a picture of noise."""
    noise = random.Random(seed).randbytes(size[0] * size[1] * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(file, kind)
    return file.getvalue()


def data_url(content: bytes) -> str:
    """Write a picture as a data URL."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def message(text: str, *pictures: bytes) -> dict[str, Any]:
    """A user's message, pictures first."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(each)}} for each in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def client(model: TwigModel, **settings: Any) -> TestClient:
    """Open the application; use it in a ``with``, at whose end the engine is closed."""
    spec = ServerSpec(**{"model_name": "tiny", "max_num_seqs": 4, **settings})
    return TestClient(create_app(model, tiny_processor(), spec))


def chunks(response: Any) -> list[dict[str, Any]]:
    """Read the events of a stream, which must end as OpenAI's do."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def http_scope(path: str) -> dict[str, Any]:
    """Say what a server tells the application of a POST request."""
    headers = [(b"content-type", b"application/json"), (b"host", b"test")]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1"}
    scope |= {"method": "POST", "path": path, "headers": headers, "raw_path": path.encode()}
    return {**scope, "query_string": b"", "scheme": "http", "client": None, "server": ("test", 80)}


def ask_and_leave(app: Any, body: dict[str, Any], after: int) -> list[dict[str, Any]]:
    """Ask for a chat, and go away once some parts of the response have come.

    Args:
        app: The application.
        body: The request.
        after: Parts of the response, its head included, after which the client is gone.

    Returns:
        What was received.
    """
    raw, got = json.dumps(body).encode(), list[dict[str, Any]]()

    async def run() -> None:
        gone, asked = anyio.Event(), False
        if after == 0:
            gone.set()

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": raw, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(part: Any) -> None:
            got.append(part)
            if len(got) >= after:
                gone.set()

        await app(http_scope("/v1/chat/completions"), receive, send)

    anyio.run(run)
    return got
