"""Requests that the server refuses: status and body, as clients of OpenAI's API expect them."""

from __future__ import annotations

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


def busy(message: str, seconds: int) -> RefusedError:
    """Make the refusal of a request for which there is no room now.

    Args:
        message: What is full.
        seconds: When the client may try again.
    """
    return RefusedError(message, status=429, headers={"Retry-After": str(seconds)})


def refusal_of(error: Exception) -> RefusedError:
    """Turn an error into what a client is told; nothing of an unexpected one is."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, _ASKED):
        return RefusedError(" ".join(str(error).split()))
    return RefusedError(
        "the server failed; the cause is in its log, and other requests go on", status=500
    )


def body_of(refusal: RefusedError) -> dict[str, Any]:
    """Return the body of an error response."""
    kind = _KINDS.get(refusal.status, "invalid_request_error")
    told = {"message": str(refusal), "type": kind, "param": refusal.param}
    return {"error": {**told, "code": refusal.status}}


__all__ = ["RefusedError", "body_of", "busy", "refusal_of"]
