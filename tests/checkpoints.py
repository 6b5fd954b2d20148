"""Checkpoint folders of the tiny models, with processor and tokenizer, as a user has them."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from tests.tiny import IMAGE_TOKEN, tiny_llava

WORDS = "what is in the picture there a red blue green circle square how many USER: ASSISTANT: ?"
"""The vocabulary's words; the rest of its ids are called ``w20`` and so on."""

CHAT = (
    "{% for message in messages %}{{ 'USER: ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{{ ' ' }}{% endfor %}"
    "{% endfor %}{{ 'ASSISTANT:' }}"
)
"""A chat template: one ``<image>`` per picture, then the text."""


def tiny_processor(*, chat: bool = True) -> LlavaProcessor:
    """Build the processor of :func:`tests.tiny.tiny_llava`: 16 x 16 pixels, 16 visual tokens."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS.split()]
    names += [f"w{number}" for number in range(len(names), IMAGE_TOKEN)]
    core = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(names)}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken("<image>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )
    assert tokenizer.convert_tokens_to_ids("<image>") == IMAGE_TOKEN
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        tokenizer=tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT if chat else None,
    )


def write_base(folder: Path, *, layers: int = 8, seed: int = 0, chat: bool = True) -> Path:
    """Write a tiny LLaVA with its processor as a checkpoint folder."""
    tiny_llava(layers, seed=seed).save_pretrained(folder)
    tiny_processor(chat=chat).save_pretrained(folder)
    return folder
