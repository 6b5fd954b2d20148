"""The real processors of the families, each with a tiny tokenizer, as far as they can be built.

Video processors need torchvision; without it their families' processors are built of the other two
parts. SmolVLM's processor needs num2words.
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from typing import Any

import pytest
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support.versions import skip_before_pinned
from twigkit.adapters.gemma4 import BEGIN, END, IMAGE, PATCH, POOL

QUESTION = "what is in the picture ?"
WORDS = f"<pad> <s> </s> <unk> {QUESTION} there a red blue green circle square how many".split()
VIDEOS = find_spec("torchvision") is not None
SQUARE = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
PATCHES = {"patch_size": 4, "vision_feature_select_strategy": "default"}
PATCHES |= {"num_additional_image_tokens": 1}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw noise."""
    pixels = random.Random(seed).randbytes(3 * width * height)
    return Image.frombytes("RGB", (width, height), pixels)


def tokenizer(special: dict[str, int], **named: str) -> PreTrainedTokenizerFast:
    """Build a tokenizer of 100 words; some ids are the special tokens of a tiny model."""
    names = [*WORDS, *(f"w{number}" for number in range(len(WORDS), 100))]
    for word, number in special.items():
        names[number] = word
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens=named,
    )


def llava() -> Any:
    return transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(**SQUARE),
        tokenizer({"<image>": 99}, image_token="<image>"),
        **PATCHES,
    )


def llava_next() -> Any:
    grids = [[16, 32], [32, 16], [32, 32]]
    return transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessorPil(**SQUARE, image_grid_pinpoints=grids),
        tokenizer({"<image>": 99}, image_token="<image>"),
        **PATCHES,
    )


def video_llava() -> Any:
    words = tokenizer({"<image>": 99, "<video>": 98}, image_token="<image>", video_token="<video>")
    pictures = transformers.VideoLlavaImageProcessor(**SQUARE)
    if VIDEOS:
        videos = transformers.VideoLlavaVideoProcessor(**SQUARE)
        return transformers.VideoLlavaProcessor(pictures, videos, words, **PATCHES)

    class Pictures(transformers.VideoLlavaProcessor):
        def __init__(self, image_processor=None, tokenizer=None, **settings):
            # The constructor hands on three parts; of a class with two the first two count.
            super().__init__(image_processor, tokenizer, tokenizer, **settings)

    return Pictures(pictures, words, **PATCHES)


def qwen(kind: str) -> Any:
    grid = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    pictures = transformers.Qwen2VLImageProcessorPil(
        **grid, size={"shortest_edge": 256, "longest_edge": 1024}
    )
    pad, video, start, end = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
    named = {"image_token": pad, "video_token": video}
    named |= {"vision_bos_token": start, "vision_eos_token": end}
    words = tokenizer({pad: 99, video: 98, start: 97, end: 96}, **named)
    cls = getattr(transformers, f"{kind}Processor")
    if VIDEOS:
        name = "Qwen3VLVideoProcessor" if kind == "Qwen3VL" else "Qwen2VLVideoProcessor"
        size = {"shortest_edge": 256, "longest_edge": 8192}
        videos = getattr(transformers, name)(**grid, size=size, min_frames=4, max_frames=8)
        return cls(pictures, words, videos)

    class Pictures(cls):
        def __init__(self, image_processor=None, tokenizer=None, **settings):
            super().__init__(image_processor, tokenizer, **settings)

    return Pictures(pictures, words)


def smolvlm(kind: str) -> Any:
    settings = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    pictures = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    special += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    words = tokenizer({word: 99 - place for place, word in enumerate(special)})
    if kind == "Idefics3":
        return transformers.Idefics3Processor(pictures, words, image_seq_len=4)
    pytest.importorskip("num2words", reason="SmolVLM's processor writes numbers with num2words")
    if VIDEOS:
        tile = {"longest_edge": 16}
        videos = transformers.SmolVLMVideoProcessor(
            size=tile, max_image_size=tile, num_frames=4, fps=1
        )
        return transformers.SmolVLMProcessor(pictures, words, videos, image_seq_len=4)

    class Pictures(transformers.SmolVLMProcessor):
        def __init__(self, image_processor=None, tokenizer=None, image_seq_len=4, **settings):
            super().__init__(image_processor, tokenizer, None, image_seq_len, **settings)

    return Pictures(pictures, words)


def gemma3() -> Any:
    image, begin, end = "<image_soft_token>", "<start_of_image>", "<end_of_image>"
    return transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer({image: 99, begin: 98, end: 97}, image_token=image, boi_token=begin,
                  eoi_token=end),
        image_seq_length=4,
    )  # fmt: skip


def gemma4() -> Any:
    image, begin, end = "<image_soft_token>", "<start_of_image>", "<end_of_image>"
    if not VIDEOS:
        skip_before_pinned("imports torchvision for Gemma 4's processor, which is not installed")
    pictures = transformers.Gemma4ImageProcessorPil(
        patch_size=PATCH, pooling_kernel_size=POOL, max_soft_tokens=70
    )
    words = tokenizer({image: IMAGE, begin: BEGIN, end: END}, image_token=image)

    class Pictures(transformers.Gemma4Processor):
        def __init__(self, image_processor=None, tokenizer=None, **settings):
            # The constructor wants all four parts, and sets these besides.
            self.image_token, self.image_token_id = image, IMAGE
            self.boi_token, self.eoi_token = begin, end
            self.video_token = self.video_token_id = self.audio_token = self.audio_token_id = None
            self.boa_token = self.eoa_token = ""
            super(transformers.Gemma4Processor, self).__init__(
                image_processor, tokenizer, **settings
            )

    return Pictures(pictures, words)


def granite4_vision() -> Any:
    grids = [[16, 32], [32, 16], [32, 32]]
    return transformers.Granite4VisionProcessor(
        transformers.LlavaNextImageProcessorPil(**SQUARE, image_grid_pinpoints=grids),
        tokenizer({"<image>": 99}, image_token="<image>"),
        **PATCHES,
        downsample_rate="1/2",
    )


def llava_next_video() -> Any:
    grids = [[16, 32], [32, 16], [32, 32]]
    pictures = transformers.LlavaNextImageProcessorPil(**SQUARE, image_grid_pinpoints=grids)
    words = tokenizer({"<image>": 99, "<video>": 98}, image_token="<image>", video_token="<video>")
    cls = transformers.LlavaNextVideoProcessor
    if VIDEOS:
        return cls(transformers.LlavaNextVideoVideoProcessor(**SQUARE), pictures, words, **PATCHES)

    class Pictures(cls):
        def __init__(self, image_processor=None, tokenizer=None, **settings):
            # The constructor hands on three parts; of a class with two the first two count.
            super().__init__(image_processor, tokenizer, tokenizer, **settings)

    return Pictures(pictures, words, **PATCHES)


def paligemma() -> Any:
    size = {"height": 16, "width": 16}
    pictures = transformers.SiglipImageProcessorPil(size=size, image_seq_length=16)
    pictures.image_seq_length = 16
    return transformers.PaliGemmaProcessor(
        pictures, tokenizer({"<image>": 99}, image_token="<image>")
    )


FRAMED = "<|vision_start|> {} <|vision_end|>"
PROCESSORS = {
    ("gemma3", "tiny"): (gemma3, "<start_of_image>"),
    ("gemma4", "gemma4"): (gemma4, "<image_soft_token>"),
    ("gemma4", "moe"): (gemma4, "<image_soft_token>"),
    ("granite4_vision", "tiny"): (granite4_vision, "<image>"),
    ("llava_next_video", "tiny"): (llava_next_video, "<image>"),
    ("paligemma", "gemma"): (paligemma, "<image>"),
    ("paligemma", "gemma2"): (paligemma, "<image>"),
    ("llava", "tiny"): (llava, "<image>"),
    ("llava_next", "granite"): (llava_next, "<image>"),
    ("llava_next", "llama"): (llava_next, "<image>"),
    ("llava_next", "mistral"): (llava_next, "<image>"),
    ("qwen2_vl", "qwen2"): (lambda: qwen("Qwen2VL"), FRAMED.format("<|image_pad|>")),
    ("qwen2_vl", "qwen2.5"): (lambda: qwen("Qwen2_5_VL"), FRAMED.format("<|image_pad|>")),
    ("qwen2_vl", "windows"): (lambda: qwen("Qwen2VL"), FRAMED.format("<|image_pad|>")),
    ("qwen3_vl", "dense"): (lambda: qwen("Qwen3VL"), FRAMED.format("<|image_pad|>")),
    ("qwen3_vl", "moe"): (lambda: qwen("Qwen3VL"), FRAMED.format("<|image_pad|>")),
    ("smolvlm", "idefics3"): (lambda: smolvlm("Idefics3"), "<image>"),
    ("smolvlm", "smolvlm"): (lambda: smolvlm("SmolVLM"), "<image>"),
    ("video_llava", "tiny"): (video_llava, "<image>"),
}
"""Variant of a family: what makes its processor, and what stands for a picture in a prompt."""

VIDEO_MARKS = {
    "qwen2_vl": FRAMED.format("<|video_pad|>"),
    "qwen3_vl": FRAMED.format("<|video_pad|>"),
    "smolvlm": "<video>",
    "video_llava": "<video>",
}
"""What stands for a video."""
