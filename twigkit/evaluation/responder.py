"""Answers messages of other evaluation programs: one model, one way to prune and to draft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from twigkit.backbone.placement import usual_device
from twigkit.errors import InputError
from twigkit.evaluation.media import read_picture, read_video
from twigkit.inflight.request import InflightRequest
from twigkit.io.conversation import encode, has_template, render, takes_videos
from twigkit.io.processors import load_processor
from twigkit.model import TwigModel
from twigkit.specs.run import GenerationSpec

__all__ = ["Responder", "chosen"]


def chosen(budget: Any = None, pruner: Any = None, drafter: Any = None) -> GenerationSpec:
    """Validate what was chosen, before anything is loaded.

    Args:
        budget: As of :class:`Responder`.
        pruner: The same.
        drafter: The same.

    Raises:
        InputError: If a pruner is given without a budget.
        SpecError: If something cannot be used.
    """
    named = {"budget": budget, "pruner": pruner, "drafter": drafter or "plain"}
    spec = GenerationSpec.parse({name: value for name, value in named.items() if value is not None})
    if pruner is not None and budget is None:
        raise InputError(
            f"the pruner {spec.pruner.kind!r} prunes nothing without a budget; give one, or leave "
            "the pruner out"
        )
    return spec


class Responder:
    """A base and a twig that answer conversations.

    What the model cannot do as asked is an error, never an empty answer.

    Attributes:
        model: Base and twig.
        processor: The base's processor.
        spec: How it prunes and drafts.
    """

    def __init__(
        self,
        base: str | Path,
        twig: str | Path | None = None,
        *,
        budget: int | float | str | None = None,
        pruner: Any = None,
        drafter: Any = None,
        dtype: str = "auto",
        device: str | None = None,
        frames: int = 8,
    ) -> None:
        """Load the model.

        Args:
            base: Folder or Hub id of the base.
            twig: Folder or Hub id of the twig; ``None`` for none.
            budget: Visual tokens per layer, a count or a fraction, ``"1/9"`` too; ``None`` prunes
                nothing.
            pruner: Name or settings, with a budget; ``None`` for the default.
            drafter: Name or settings; ``None`` for plain decoding.
            dtype: Precision.
            device: Device, or ``"auto"`` to spread over all; ``None`` for a GPU where there is one.
            frames: Frames taken from a video.

        Raises:
            InputError: If a pruner is given without a budget.
            SpecError: If budget, pruner or drafter cannot be used.
            CheckpointError: If something is missing or damaged.
        """
        self.spec = chosen(budget, pruner, drafter)
        place = device or usual_device()
        self.model = TwigModel.from_pretrained(base, twig=twig, dtype=dtype, device_map=place)
        self.processor = load_processor(base, otherwise=self.model.base.name_or_path)
        self._frames = frames

    def answer(
        self,
        turns: Sequence[Mapping[str, Any]],
        pictures: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        **generation: Any,
    ) -> tuple[str, int]:
        """Answer one conversation.

        Args:
            turns: Messages with ``role`` and ``content``, parts of the types image, video and text.
            pictures: The pictures in their order, as :data:`twigkit.interfaces.task.Picture`.
            videos: Files or folders of frames in their order.
            **generation: Arguments of ``generate``.

        Returns:
            The answer and its number of tokens.

        Raises:
            TwigkitError: If the model cannot answer as asked.
        """
        inputs = self._inputs(turns, pictures, videos)
        pruning: dict[str, Any] = {}
        if self.spec.budget is not None:
            pruning = {"budget": self.spec.budget, "pruner": self.spec.pruner}
        output: Any = self.model.generate(
            **inputs,
            drafter=self.spec.drafter,
            **pruning,
            **generation,
            return_dict_in_generate=True,
        )
        count = output.stats.new_tokens[0]
        start = inputs["input_ids"].shape[1]
        return self.text(output.sequences[0, start : start + count].tolist()), count

    def request(
        self,
        turns: Sequence[Mapping[str, Any]],
        pictures: Sequence[Any] = (),
        videos: Sequence[Any] = (),
        **generation: Any,
    ) -> InflightRequest:
        """Prepare one conversation for :func:`twigkit.inflight.many.answer_many`.

        Args and errors are those of :meth:`answer`; :meth:`text` turns tokens into the answer.
        """
        return InflightRequest(
            self._inputs(turns, pictures, videos),
            self.spec.drafter,
            generation,
            pruner=self.spec.pruner,
            budget=self.spec.budget,
        )

    def text(self, tokens: Sequence[int]) -> str:
        """Decode the tokens of an answer."""
        words = getattr(self.processor, "tokenizer", self.processor)
        return str(words.decode(tokens, skip_special_tokens=True)).strip()

    def _inputs(
        self, turns: Sequence[Mapping[str, Any]], pictures: Sequence[Any], videos: Sequence[Any]
    ) -> dict[str, Any]:
        """Read the media of a conversation and turn it into what the model takes."""
        clips = [[Image.fromarray(f) for f in read_video(v, self._frames)] for v in videos]
        shown = [read_picture(picture) for picture in pictures]
        if clips and not takes_videos(self.processor):
            raise InputError(
                f"{len(clips)} videos were given, and the base takes none; give its frames as "
                "pictures, or another base"
            )
        if not has_template(self.processor):
            raise InputError("the base has no chat template; add one to its processor's files")
        text = render(self.processor, turns)
        return encode(self.processor, text, shown, clips, rendered=True)
