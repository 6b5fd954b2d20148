"""From the body of a request to what the engine is asked."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from twigkit.backbone.context import context_length
from twigkit.errors import InputError
from twigkit.inflight.request import InflightRequest
from twigkit.io.conversation import encode, has_template, render, takes_videos
from twigkit.model import TwigModel
from twigkit.plugins.discovery import default_registry
from twigkit.server.media import MediaReader, is_data
from twigkit.server.protocol import (
    ChatBody,
    CompletionBody,
    ImagePart,
    Message,
    Sampled,
    TextPart,
)
from twigkit.server.settings import ServerSpec
from twigkit.specs.run import DrafterSpec, GenerationSpec, PrunerSpec


@dataclass(frozen=True)
class Shown:
    """How the visual tokens of a prompt lie on its picture, for who draws them.

    Attributes:
        pictures: Pictures of the prompt, frames of videos included.
        grid: Rows and columns of visual tokens, if the processor says so.
        crop: Whether the model sees the middle square of the picture alone.
    """

    pictures: int = 0
    grid: tuple[int, int] | None = None
    crop: bool = False

    def grid_of(self, visual: int) -> tuple[int, int] | None:
        """Return rows and columns of a picture's visual tokens; ``None`` if nothing tells them.

        Args:
            visual: How many there are.
        """
        if self.pictures != 1:
            return None
        if self.grid is not None:
            return self.grid if self.grid[0] * self.grid[1] == visual else None
        edge = math.isqrt(visual)
        return (edge, edge) if edge * edge == visual else None


class PromptReader:
    """Reads what a request asks, within the server's limits.

    Attributes:
        spec: Settings and limits.
        tokenizer: The base's tokenizer.
        context: Most tokens of prompt and answer together.
    """

    def __init__(
        self, model: TwigModel, processor: Any, spec: ServerSpec, media: MediaReader
    ) -> None:
        """Take what prompts are made with.

        Args:
            model: The model that answers.
            processor: Its processor, or its tokenizer if it takes text only.
            spec: Settings and limits.
            media: Reads pictures.
        """
        self.spec, self._media, self._processor = spec, media, processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self._config = model.generation_config
        context = context_length(model.stack.config) or 2**31
        self.context = min(context, spec.max_model_len or context)
        longest = max(map(len, self.tokenizer.get_vocab()), default=1)
        self._most_characters = self.context * (longest + 1)  # with a space before each token

    def elsewhere(self, body: ChatBody) -> list[str]:
        """Return the URLs of the pictures of a chat that have to be fetched.

        Raises:
            InputError: If the chat has too many pictures.
        """
        self._check_counts(body.messages)
        contents = [message.content for message in body.messages]
        parts = [part for content in contents if not isinstance(content, str) for part in content]
        urls = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
        return list(dict.fromkeys(url for url in urls if not is_data(url)))

    def fetch(self, urls: list[str]) -> dict[str, bytes]:
        """Fetch pictures, which may take long, but no computing.

        Raises:
            InputError: If one cannot be fetched.
        """
        return {url: self._media.fetcher.get(url) for url in urls}

    def chat(
        self, body: ChatBody, fetched: Mapping[str, bytes] | None = None
    ) -> tuple[InflightRequest, Shown]:
        """Read a chat; return what is asked, and how its picture is divided.

        Args:
            body: The chat.
            fetched: What was fetched, by URL; other pictures are fetched here.

        Raises:
            InputError: If a message, a picture or a setting cannot be used.
        """
        if not has_template(self._processor):
            raise InputError("the base has no chat template; use /v1/completions")
        shown: list[Image.Image] = []
        films: list[list[Image.Image]] = []
        self._check_counts(body.messages)
        turns = [self._turn(m, shown, films, fetched or {}) for m in body.messages]
        text = self._of_bounded_length(render(self._processor, turns))
        inputs = encode(self._processor, text, shown, films, rendered=True)
        asked = self._request(body, inputs, body.wanted_tokens, body.wanted_logprobs)
        return asked, self._shown(inputs, len(shown) + len(films))

    def completion(self, body: CompletionBody, prompt: str) -> tuple[InflightRequest, Shown]:
        """Read one prompt of a completion, which shows nothing.

        Raises:
            InputError: If the prompt or a setting cannot be used.
        """
        if not prompt:
            raise InputError("the prompt is empty; give some text")
        inputs = encode(self._processor, self._of_bounded_length(prompt))
        return self._request(body, inputs, body.wanted_tokens, body.wanted_logprobs), Shown()

    def _of_bounded_length(self, text: str) -> str:
        """Refuse a text that is far too long before it costs the time to make tokens of it."""
        if len(text) > self._most_characters:
            raise InputError(
                f"the prompt has {len(text):,} characters, and the server takes {self.context} "
                "tokens of prompt and answer together; ask with fewer words"
            )
        return text

    def _shown(self, inputs: dict[str, Any], pictures: int) -> Shown:
        """Say how visual tokens lie on the picture."""
        if pictures != 1:
            return Shown(pictures)
        image_processor = self._processor.image_processor
        grid = None
        sizes = inputs.get("image_grid_thw")  # patches, of which several become a token
        if sizes is not None:
            merged = int(getattr(image_processor, "merge_size", 1))
            _, rows, columns = sizes[0].tolist()
            grid = rows // merged, columns // merged
        return Shown(1, grid, crop=bool(getattr(image_processor, "do_center_crop", False)))

    def _check_counts(self, messages: list[Message]) -> None:
        """Refuse more pictures or videos than are taken, before any is read."""
        parts = [part for m in messages if not isinstance(m.content, str) for part in m.content]
        pictures = sum(isinstance(part, ImagePart) for part in parts)
        videos = len(parts) - pictures - sum(isinstance(part, TextPart) for part in parts)
        for name, count, most in (
            ("pictures", pictures, self.spec.max_images),
            ("videos", videos, self.spec.max_videos),
        ):
            if count > most:
                raise InputError(f"the request has {count} {name}; the server takes {most}")

    def _turn(
        self,
        message: Message,
        shown: list[Image.Image],
        films: list[list[Image.Image]],
        fetched: Mapping[str, bytes],
    ) -> dict[str, Any]:
        """Write a message as chat templates take it; collect its pictures and videos."""
        role = "system" if message.role == "developer" else message.role
        content = message.content
        if isinstance(content, str):
            content = [TextPart(type="text", text=content)]
        parts: list[dict[str, str]] = []
        for part in content:
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": part.text})
            elif isinstance(part, ImagePart):
                url = part.image_url.url
                shown.append(self._media.picture(fetched.get(url, url)))
                parts.append({"type": "image"})
            else:
                frames = self._media.video(part.video_url.url)
                if takes_videos(self._processor):
                    films.append(frames)
                    parts.append({"type": "video"})
                else:
                    shown.extend(frames)
                    parts += [{"type": "image"}] * len(frames)
        return {"role": role, "content": parts}

    def _request(
        self, body: Sampled, inputs: dict[str, Any], wanted: int | None, logprobs: int | None
    ) -> InflightRequest:
        """Put prompt and settings together."""
        length = inputs["input_ids"].shape[1]
        left = self.context - length
        if left < 1:
            raise InputError(
                f"the prompt has {length} tokens; the server takes {self.context} of prompt and "
                "answer together, so ask with fewer words or pictures"
            )
        if wanted is not None and (wanted > left or wanted > self.spec.max_tokens):
            raise InputError(
                f"max_tokens is {wanted}, and after a prompt of {length} tokens the server "
                f"generates up to {min(left, self.spec.max_tokens)}; ask for fewer"
            )
        most = min(left, self.spec.max_tokens) if wanted is None else wanted
        own = body.twigkit
        given = own.budget is not None
        return InflightRequest(
            inputs=inputs,
            settings=self._settings(body, most),
            drafter=self._drafter(own.drafter),
            pruner=self._pruner(own.pruner),
            budget=own.budget if given else self.spec.budget,
            wipe_layer=own.wipe_layer,
            strict=own.strict,
            answers=body.n,
            logprobs=logprobs,
            trace=own.trace,
            deadline=time.monotonic() + self.spec.request_seconds,
        )

    def _drafter(self, name: str | None) -> DrafterSpec:
        """Return the drafter of a name: the server's own, or one with its default settings."""
        if name is None or name == self.spec.drafter.kind:
            return self.spec.drafter
        self._check_name("drafter", name)
        drafter: DrafterSpec = GenerationSpec(drafter=name).drafter
        return drafter

    def _pruner(self, name: str | None) -> PrunerSpec:
        """Return the pruner of a name, likewise."""
        if name is None or name == self.spec.pruner.kind:
            return self.spec.pruner
        self._check_name("pruner", name)
        pruner: PrunerSpec = GenerationSpec(pruner=name).pruner
        return pruner

    def _check_name(self, kind: str, name: str) -> None:
        default_registry().get(kind, name)

    def _settings(self, body: Sampled, most: int) -> dict[str, Any]:
        """Translate the sampling fields into transformers' settings.

        Without a temperature, the base's own settings say whether tokens are drawn. Drawn tokens
        come from the whole vocabulary unless the request or the base says otherwise.
        """
        settings: dict[str, Any] = {"max_new_tokens": most, "tokenizer": self.tokenizer}
        draws = bool(self._config.do_sample)
        if body.temperature is not None:
            draws = body.temperature > 0
            settings["do_sample"] = draws
        if draws:
            base_k = getattr(self._config, "top_k", None)
            top_k = (base_k or 0) if body.top_k is None else max(body.top_k, 0)
            drawn = {"temperature": body.temperature, "top_p": body.top_p, "min_p": body.min_p}
            settings |= {"top_k": top_k, **{k: v for k, v in drawn.items() if v is not None}}
            if body.seed is not None:
                seeds = range(body.seed, body.seed + body.n)  # beyond the last comes the first
                settings["seed"] = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
        if body.repetition_penalty is not None:
            settings["repetition_penalty"] = body.repetition_penalty
        if body.min_tokens:
            settings["min_new_tokens"] = body.min_tokens
        if body.ignore_eos:
            settings["eos_token_id"] = None
        if body.stops:
            settings["stop_strings"] = body.stops
        if body.logit_bias:
            settings["sequence_bias"] = [[[t], b] for t, b in _biases(body.logit_bias).items()]
        return settings


def _biases(given: dict[str, float]) -> dict[int, float]:
    """Read the keys of ``logit_bias``, which are token ids as text."""
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        raise InputError("logit_bias takes token ids as keys, such as {'50256': -100}") from None


__all__ = ["PromptReader", "Shown"]
