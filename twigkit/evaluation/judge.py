"""A judge behind an OpenAI-compatible endpoint, whose verdicts are kept."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

from twigkit.errors import InputError
from twigkit.evaluation.answers import read_mapping
from twigkit.io.files import write_whole

__all__ = ["EndpointJudge"]

TIMEOUT = 120.0
"""Seconds after which a request counts as failed."""


class EndpointJudge:
    """Asks a chat model over HTTP; what it said to a prompt once is not asked again.

    Attributes:
        model: Name of the model.
        url: Where its API begins, such as ``http://localhost:8000/v1``.
    """

    def __init__(
        self, url: str, model: str, *, key: str | None = None, memory: Path | None = None
    ) -> None:
        """Read earlier verdicts; nothing is asked yet.

        Args:
            url: Where the API begins.
            model: Name of the model.
            key: Sent as the bearer token.
            memory: File of earlier verdicts, by model.

        Raises:
            InputError: If that file is damaged.
        """
        self.url, self.model = url.rstrip("/"), model
        self._key, self._memory = key, memory
        self._held: dict[str, dict[str, str]] = {}
        if memory is not None and memory.exists():
            self._held = read_mapping(memory)
        self._known = self._held.setdefault(model, {})

    def ask(self, prompt: str) -> str:
        """Return what the model says to a prompt, at temperature 0.

        Args:
            prompt: The prompt.

        Raises:
            InputError: If the endpoint does not answer as OpenAI's would.
        """
        if prompt not in self._known:
            self._known[prompt] = self._request(prompt)
            if self._memory is not None:
                write_whole(self._memory, json.dumps(self._held, indent=1) + "\n")
        return self._known[prompt]

    def _request(self, prompt: str) -> str:
        """Send one request."""
        turn = {"role": "user", "content": prompt}
        body = {"model": self.model, "messages": [turn], "temperature": 0, "max_tokens": 256}
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        where = f"{self.url}/chat/completions"
        if not where.startswith(("http://", "https://")):
            raise InputError(f"the judge {self.url!r} is no address; expected http:// or https://")
        request = urllib.request.Request(where, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
                said = json.loads(reply.read())["choices"][0]["message"]["content"]
            if not said:
                raise ValueError("an empty answer")
        except urllib.error.HTTPError as error:
            told = error.read(500).decode(errors="replace")
            raise InputError(
                f"the judge at {where} answers {error.code}: {told}; check its model and key"
            ) from error
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"the judge at {where} cannot be asked ({type(error).__name__}: {error}); check "
                "that it runs and speaks the API of OpenAI. Answers that are there stay"
            ) from error
        return str(said)
