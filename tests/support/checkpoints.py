"""Checkpoint folders of the tiny models, with processor and tokenizer, as a user has them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from tests.support.tiny import IMAGE_TOKEN, SEED, tiny_llava
from twigkit import TwigModel, TwigSpec
from twigkit.interfaces.tiny_models import spread_weights

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
    """Build the processor of ``tiny_llava``: 16 x 16 pixels, 16 visual tokens."""
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


def write_base(folder: Path, *, layers: int = 8, seed: int = SEED, chat: bool = True) -> Path:
    """Write a tiny LLaVA with its processor as a checkpoint folder."""
    tiny_llava(layers, seed=seed).save_pretrained(folder)
    tiny_processor(chat=chat).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Folders:
    """What a user of the command line has at hand; not to be changed.

    Attributes:
        base: A tiny base of 8 layers, with processor.
        twig: A twig of 2 layers on layer 2 of it.
        picture: A PNG.
    """

    base: Path
    twig: Path
    picture: Path

    @property
    def model(self) -> list[str]:
        """Options that name base and twig."""
        return ["--base", str(self.base), "--twig", str(self.twig)]


def write_folders(folder: Path) -> Folders:
    """Write a base, a twig on it and a picture."""
    base = write_base(folder / "base")
    model = TwigModel.from_pretrained(base)
    twig = model.grow(TwigSpec(base=str(base), exit_layer=2, depth=2))
    spread_weights(twig, seed=1)
    model.save_twig(folder / "twig")
    noise = random.Random(0).randbytes(40 * 30 * 3)
    Image.frombytes("RGB", (40, 30), noise).save(folder / "picture.png")
    return Folders(base, folder / "twig", folder / "picture.png")
