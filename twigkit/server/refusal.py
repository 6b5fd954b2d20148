"""Requests that the server refuses: status and body, as clients of OpenAI's API expect them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from twigkit.errors import (
    BudgetError,
    CapabilityError,
    CheckpointError,
    InputError,
    RegistryError,
    SpecError,
    TwigkitError,
)
from twigkit.inflight.engine import ClosedError, OverdueError, QueueFullError

logger = logging.getLogger(__name__)

_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "internal_error",
    503: "unavailable_error",
}
_ASKED = (BudgetError, CapabilityError, CheckpointError, InputError, RegistryError, SpecError)


class RefusedError(TwigkitError):
    """A request that is not served.

    Attributes:
        status: HTTP status.
        param: Name of the field that is wrong, if it is one.
        headers: Headers of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep what the client is told."""
        super().__init__(message)
        self.status, self.param, self.headers = status, param, dict(headers or {})


def refusal_of(error: Exception | asyncio.CancelledError) -> RefusedError:
    """Turn an error into what a client is told; an unexpected one is told to the log alone.

    What is cancelled was still running when the server's time to shut down was over.
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, _ASKED):
        return RefusedError(" ".join(str(error).split()))
    if isinstance(error, QueueFullError):
        return RefusedError(str(error), status=429, headers={"Retry-After": str(error.seconds)})
    if isinstance(error, ClosedError | OverdueError):
        return RefusedError(str(error), status=503, headers={"Retry-After": "5"})
    if isinstance(error, asyncio.CancelledError):
        told = "the server has stopped before the answer was complete; ask again"
        return RefusedError(told, status=503, headers={"Retry-After": "5"})
    logger.error("a request failed", exc_info=error)
    return RefusedError(
        "the server failed; the cause is in its log, and other requests go on", status=500
    )


def body_of(refusal: RefusedError) -> dict[str, Any]:
    """Return the body of an error response."""
    kind = _KINDS.get(refusal.status, "invalid_request_error")
    told = {"message": str(refusal), "type": kind, "param": refusal.param}
    return {"error": {**told, "code": refusal.status}}


__all__ = ["RefusedError", "body_of", "refusal_of"]
