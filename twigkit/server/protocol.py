"""The requests that the server takes: OpenAI's fields, vLLM's sampling fields, and twigkit's own.

Fields that ask for what the server does not do are refused unless they ask for nothing; a field
that is not known at all is an error. So no request is answered otherwise than it asked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from twigkit.specs.run import CountOrFraction

_NO_EFFECT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "cache_salt",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields that say nothing about the answer."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "priority": (0,),
    "prompt_logprobs": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields that are refused, with the values besides null that ask for nothing."""


class Part(BaseModel):
    """The base class of what the server takes: frozen, without unknown fields.

    A field that is null is as good as left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, data: Any) -> Any:
        """Drop fields that are null."""
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}


class TextPart(Part):
    """Words of a message."""

    type: Literal["text"]
    text: str


class MediaUrl(Part):
    """Where a picture or the frames of a video are."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Part):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: MediaUrl


class VideoPart(Part):
    """The frames of a video of a message."""

    type: Literal["video_url"]
    video_url: MediaUrl


ContentPart = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
"""A part of a message."""


class Message(Part):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        """Drop empty lists of annotations and tool calls, which answers of other servers have."""
        if not isinstance(data, dict):
            return data
        return {n: v for n, v in data.items() if v != [] or n not in ("annotations", "tool_calls")}


class StreamOptions(Part):
    """What a stream holds besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class TwigOptions(Part):
    """What only twigkit knows: how visual tokens are pruned and tokens drafted.

    Attributes:
        budget: Average number of visual tokens per layer, a count or a fraction.
        pruner: Chooses the visual tokens that stay.
        drafter: Proposes tokens.
        wipe_layer: Layer after which no visual token is left.
        strict: Refuse a budget that the layers cannot meet.
        trace: Whether answers say which visual tokens stayed and which tokens were drafted.
    """

    budget: CountOrFraction = None
    pruner: str | None = None
    drafter: str | None = None
    wipe_layer: CountOrFraction = None
    strict: bool = False
    trace: bool = False


class Sampled(Part):
    """The fields that chats and completions share."""

    model: str | None = None
    temperature: float | None = Field(None, ge=0.0, le=100.0)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0.0, le=1.0)
    repetition_penalty: float | None = Field(None, gt=0.0, le=100.0)
    n: int = Field(1, ge=1, le=128)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = (
        None
    )
    ignore_eos: bool = False
    min_tokens: int | None = Field(None, ge=0)
    logit_bias: dict[str, float] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    twigkit: TwigOptions = TwigOptions()

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, data: Any) -> Any:
        """Drop fields that ask for nothing, and refuse those that ask for what is not done."""
        if not isinstance(data, dict):
            return data
        kept = {}
        for name, value in data.items():
            if value is None or name in _NO_EFFECT:
                continue
            if name in _NEUTRAL and name not in cls.model_fields:
                if not any(value == neutral for neutral in _NEUTRAL[name]):
                    raise PydanticCustomError(
                        "twigkit", "the server does not do {name}; leave it out", {"name": name}
                    )
                continue
            kept[name] = value
        return kept

    @model_validator(mode="after")
    def _stop_within_bounds(self) -> Sampled:
        """Refuse more stop strings than are checked cheaply."""
        stops = self.stops
        if len(stops) > 16 or any(len(stop) > 200 for stop in stops):
            raise PydanticCustomError(
                "twigkit", "stop takes up to 16 strings of up to 200 characters", {}
            )
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class ChatBody(Sampled):
    """A request for ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @model_validator(mode="after")
    def _logprobs_asked(self) -> ChatBody:
        """Refuse to be asked for the most likely tokens and yet for no log-probabilities."""
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError(
                "twigkit", "top_logprobs counts only with logprobs; set logprobs to true", {}
            )
        return self

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens of an answer, by either of its names."""
        newer = self.max_completion_tokens
        return self.max_tokens if newer is None else newer

    @property
    def wanted_logprobs(self) -> int | None:
        """Most likely tokens that are told for each place; ``None`` for no log-probabilities."""
        return self.top_logprobs if self.logprobs else None


class CompletionBody(Sampled):
    """A request for ``/v1/completions``."""

    prompt: str | list[str]
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens of an answer."""
        return self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """Most likely tokens that are told for each place; ``None`` for no log-probabilities."""
        return self.logprobs


__all__ = [
    "ChatBody",
    "CompletionBody",
    "ImagePart",
    "Message",
    "Sampled",
    "StreamOptions",
    "TextPart",
    "TwigOptions",
    "VideoPart",
]
