"""The model ``twigkit`` of lmms-eval, found through its entry-point group ``lmms_eval.models``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from twigkit.errors import CapabilityError, InputError
from twigkit.evaluation.responder import Responder
from twigkit.inflight.many import answer_many
from twigkit.inflight.request import InflightRequest

__all__ = ["TwigkitModel", "manifest"]

AUTOMATIC = 16
"""Questions at a time where ``batch_size`` is no number, as ``auto``."""


class TwigkitModel(lmms):  # type: ignore[misc] # lmms-eval has no types
    """Answers the requests of lmms-eval; a refusal of twigkit's ends the run with its message."""

    is_simple = False

    def __init__(self, pretrained: str, twig: str | None = None, **options: Any) -> None:
        """Load the model.

        Args:
            pretrained: Folder or Hub id of the base.
            twig: Folder or Hub id of the twig.
            **options: ``batch_size``, questions that are answered at a time, and ``budget``,
                ``pruner``, ``drafter``, ``dtype``, ``device``, ``frames``. Where several processes
                share the requests, each has a device of its own by default.

        Raises:
            InputError: If an option is unknown.
        """
        super().__init__()
        options.pop("max_batch_size", None)  # lmms-eval hands it to every model
        rows = str(options.pop("batch_size", None) or 1)
        self._rows = int(rows) if rows.isdecimal() else AUTOMATIC
        known = ("budget", "pruner", "drafter", "dtype", "device", "frames")
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise InputError(
                f"the model twigkit takes no {', '.join(unknown)}; known in --model_args: "
                f"pretrained, twig, {', '.join(known)}"
            )
        state = PartialState()
        if state.num_processes > 1 and options.get("device") is None:
            options["device"] = str(state.device)
        self._responder = Responder(pretrained, twig, **options)

    @property
    def device(self) -> torch.device:
        """Where the model is; lmms-eval counts the requests of all processes there."""
        return self._responder.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer requests, as many at a time as ``batch_size`` says.

        Args:
            requests: lmms-eval's.

        Raises:
            TwigkitError: If the model cannot answer as a request asks.
        """
        asked = ((str(n), partial(self._request, each)) for n, each in enumerate(requests))
        found: list[GenerationResult | None] = [None] * len(requests)
        with closing(answer_many(self._responder.model, asked, self._rows)) as answers:
            shown = tqdm(answers, desc="twigkit", total=len(requests), disable=self.rank > 0)
            for name, tokens in shown:
                if isinstance(tokens, Exception):
                    raise tokens
                text = self._responder.text(tokens)
                for stop in _generation(requests[int(name)].args[2])[1]:
                    text = text.split(stop)[0]
                counts = TokenCounts(output_tokens=len(tokens))
                found[int(name)] = GenerationResult(text=text, token_counts=counts)
        return [each for each in found if each is not None]

    def _request(self, request: Any) -> InflightRequest:
        """Prepare a request."""
        _, messages_of, asked, number, task, split = request.args
        turns, pictures, videos = _conversation(messages_of(self.task_dict[task][split][number]))
        generation, _ = _generation(asked)
        return self._responder.request(turns, pictures, videos, **generation)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse: twigkit generates."""
        raise CapabilityError(
            "twigkit gives no likelihoods of answers; choose a task of the type generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: a round depends on the answer before it."""
        raise CapabilityError(
            "twigkit answers no tasks of several rounds; choose a task of the type generate_until"
        )


def _conversation(messages: Sequence[Any]) -> tuple[list[dict[str, Any]], list[Any], list[Any]]:
    """Turn messages into turns with placeholders, pictures and videos."""
    turns, media = [], {"image": [], "video": []}  # type: ignore[var-annotated]
    for message in messages:
        parts = []
        for part in message["content"]:
            kind = part["type"]
            if kind == "text":
                parts.append({"type": "text", "text": part["text"]})
            elif kind in media:
                parts.append({"type": kind})
                media[kind].append(part["url"])
            else:
                raise CapabilityError(f"twigkit shows no {kind}; choose a task without it")
        turns.append({"role": message["role"], "content": parts})
    return turns, media["image"], media["video"]


def _generation(asked: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn lmms-eval's arguments into those of ``generate``, and texts that end an answer.

    As with its own models a temperature decides whether answers are drawn, and
    ``image_aspect_ratio``, a setting of the LLaVA authors' code, says nothing: pictures go through
    the base's processor.
    """
    given = dict(asked)
    given.pop("image_aspect_ratio", None)
    stops = [stop for name in ("until", "stop_sequences") for stop in _texts(given.pop(name, None))]
    temperature, sampled = given.get("temperature"), bool(given.pop("do_sample", False))
    if temperature is not None:
        sampled = temperature > 0
    if not sampled:
        for name in ("temperature", "top_p", "top_k"):
            given.pop(name, None)
    return {"max_new_tokens": 256, **given, "do_sample": sampled}, stops


def _texts(found: str | Sequence[str] | None) -> list[str]:
    """Return one text or several as a list, without empty ones."""
    return [text for text in ([found] if isinstance(found, str) else found or ()) if text]


def manifest() -> ModelManifest:
    """Tell lmms-eval the model's name and class."""
    return ModelManifest(
        model_id="twigkit",
        chat_class_path="twigkit.evaluation.lmms_eval_model.TwigkitModel",
    )
