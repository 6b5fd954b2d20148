"""Tiny processors of real families: a token per byte, and chat templates in the families' forms."""

from __future__ import annotations

import numpy as np
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.support.versions import skip_before_pinned

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_tokenizer(specials, *, eos="</s>", bos=None, adds_bos=False, template=None, **named):
    """A tokenizer whose text decodes to what it was, character by character."""
    words = [*specials, *ALPHABET]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in specials])
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, words.index(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=eos,
        bos_token=bos,
        pad_token=specials[0],
        extra_special_tokens=named,
        padding_side="left",
    )
    tokenizer.chat_template = template
    return tokenizer


def parts(image="", video="", after=" "):
    """The body of a message: pictures and videos where they stand, then the words."""
    return (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '" + image + "' }}"
        "{% elif part['type'] == 'video' %}{{ '" + video + "' }}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '" + after + "' }}"
    )


VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    + parts("<image>\n", "<video>\n")
    + "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""No end token after an answer, and a space after every message."""

INSTRUCT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    + parts("<image>\n", after="")
    + "{{ ' [/INST]' }}{% else %}{{ ' ' }}"
    + parts(after="")
    + "{{ '</s>' }}{% endif %}{% endfor %}"
)

CHATML = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + parts(
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|vision_start|><|video_pad|><|vision_end|>",
        after="",
    )
    + "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The end token after every message, and a new line after it."""

UTTERANCE = (
    "{{ '<s>' }}{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    + parts("<image>", after="<end_of_utterance>\n")
    + "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The first token is in the template."""

TURN = (
    "{{ '<bos>' }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}"
    + parts("<start_of_image>", after="<end_of_turn>\n")
    + "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


TILES = [
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *[f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)],
]


def llava():
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    names = ["<pad>", "<s>", "</s>", "<image>"]
    tokenizer = byte_tokenizer(names, bos="<s>", adds_bos=True, image_token="<image>")
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )


def llava_next():
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    names = ["<pad>", "<s>", "</s>", "<image>"]
    tokenizer = byte_tokenizer(names, bos="<s>", adds_bos=True, image_token="<image>")
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": 16},
        crop_size={"height": 16, "width": 16},
        image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
    )
    return LlavaNextProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=INSTRUCT,
    )


def idefics3():
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor
    from transformers.utils import is_torchvision_available

    if not is_torchvision_available():
        skip_before_pinned("makes pictures for Idefics 3 with torchvision, which is not installed")

    names = ["<pad>", "<s>", "</s>", "<image>", *TILES]
    tokenizer = byte_tokenizer(
        names, bos="<s>", eos="<end_of_utterance>", adds_bos=True, image_token="<image>"
    )
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    return Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=UTTERANCE)


def gemma3():
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    names = ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
             "<end_of_image>", "<image_soft_token>"]  # fmt: skip
    tokenizer = byte_tokenizer(
        names,
        bos="<bos>",
        eos="<eos>",
        adds_bos=True,
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
    )
    pictures = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    return Gemma3Processor(pictures, tokenizer, chat_template=TURN, image_seq_length=4)


def text_only():
    """A tokenizer alone, as a language model without pictures has it."""
    return byte_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|im_end|>", template=CHATML
    )


QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
        "<|image_pad|>", "<|video_pad|>"]  # fmt: skip


def qwen2_vl():
    from transformers import Qwen2VLImageProcessorPil, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
    options = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    tokenizer = byte_tokenizer(QWEN, eos="<|im_end|>")
    return Qwen2VLProcessor(
        Qwen2VLImageProcessorPil(**options),
        tokenizer,
        Qwen2VLVideoProcessor(**options),
        chat_template=CHATML,
    )


def video_llava():
    from transformers import CLIPImageProcessorPil, VideoLlavaProcessor
    from transformers.models.video_llava.video_processing_video_llava import (
        VideoLlavaVideoProcessor,
    )

    names = ["<pad>", "<s>", "</s>", "<image>", "<video>"]
    tokenizer = byte_tokenizer(
        names, bos="<s>", adds_bos=True, image_token="<image>", video_token="<video>"
    )
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return VideoLlavaProcessor(
        image_processor=CLIPImageProcessorPil(**size),
        video_processor=VideoLlavaVideoProcessor(**size),
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )


def smolvlm():
    from transformers import SmolVLMImageProcessorPil, SmolVLMProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    names = ["<pad>", "<s>", "</s>", "<image>", "<video>", *TILES]
    tokenizer = byte_tokenizer(names, bos="<s>", eos="<end_of_utterance>")
    pictures = SmolVLMImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    films = SmolVLMVideoProcessor(size={"longest_edge": 16}, max_image_size={"longest_edge": 16})
    return SmolVLMProcessor(pictures, tokenizer, films, image_seq_len=4, chat_template=UTTERANCE)


PICTURES = {"llava": llava, "llava_next": llava_next, "idefics3": idefics3, "gemma3": gemma3}
"""Processors that need nothing but Pillow."""

VIDEOS = {"qwen2_vl": qwen2_vl, "video_llava": video_llava, "smolvlm": smolvlm}
"""Processors that need torchvision, since they take videos."""


def picture(seed=0, width=20, height=20):
    """A picture of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)
