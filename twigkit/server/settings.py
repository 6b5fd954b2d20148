"""Settings and limits of the server."""

from __future__ import annotations

from pydantic import Field

from twigkit.specs.base import Spec
from twigkit.specs.run import CountOrFraction, DrafterField, DrafterSpec, PrunerField, PrunerSpec


class ServerSpec(Spec):
    """How the server answers, and how much it takes."""

    model_name: str = Field(
        "twigkit", min_length=1, description="Name of the model in requests and answers."
    )
    api_key: str | None = Field(
        None, min_length=1, description="What clients send as bearer token; None asks for none."
    )
    drafter: DrafterField = Field(
        default_factory=lambda: DrafterSpec(kind="ssd"),
        validate_default=True,
        description="Drafter of requests that name none.",
    )
    pruner: PrunerField = Field(
        default_factory=lambda: PrunerSpec(kind="ttp"),
        validate_default=True,
        description="Pruner of requests that name none.",
    )
    budget: CountOrFraction = Field(
        None, description="Budget of requests that name none; None prunes nothing."
    )
    max_num_seqs: int = Field(
        16, ge=1, le=1024, description="Answers that are generated at the same time."
    )
    max_queue: int = Field(
        64, ge=0, le=100_000, description="Answers that wait for a slot; more are refused with 429."
    )
    max_model_len: int | None = Field(
        None, ge=2, description="Most tokens of prompt and answer; None is the base's context."
    )
    max_tokens: int = Field(
        4096, ge=1, description="Most tokens of an answer, and what a request gets that says none."
    )
    max_images: int = Field(8, ge=0, le=1024, description="Most pictures of a request.")
    max_videos: int = Field(1, ge=0, le=64, description="Most videos of a request.")
    most_frames: int = Field(64, ge=1, le=4096, description="Most frames of a video.")
    most_image_bytes: int = Field(
        16 * 2**20, ge=1, description="Most bytes of a picture or frame, before it is decoded."
    )
    most_pixels: int = Field(2**25, ge=1, le=2**27, description="Most pixels of a picture.")
    most_body_bytes: int = Field(64 * 2**20, ge=1, description="Most bytes of a request.")
    allowed_media_domains: tuple[str, ...] = Field(
        (), description="Hosts from which https URLs of pictures are fetched."
    )
    fetch_seconds: float = Field(10.0, gt=0.0, description="Most time to fetch a picture.")
    request_seconds: float = Field(
        300.0,
        gt=0.0,
        description="Most time of a request; an answer that runs then ends there, one that waits "
        "is refused.",
    )


__all__ = ["ServerSpec"]
