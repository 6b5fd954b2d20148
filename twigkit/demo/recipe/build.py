"""Builds the demo model's parts from nothing: vocabulary, processor, configuration."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from twigkit.demo.describe import PROMPTS, SIZE_WORDS, description
from twigkit.demo.questions import KINDS, ask
from twigkit.demo.words import NUMBERS, fact_text
from twigkit.demo.world import COLORS, DIGITS, EDGE, GRID, PATCH, SHAPES, WORDS, sample_scene

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
ROLES = ("USER:", "ASSISTANT:")
PAD, BOS, EOS, UNK, IMAGE = range(len(SPECIAL))
USER, ASSISTANT = range(len(SPECIAL), len(SPECIAL) + len(ROLES))
VISUAL = GRID * GRID
# Words of users that mean a word of the world.
SYNONYMS = {
    "colour": "color", "grey": "gray", "image": "picture", "photo": "picture",
    "objects": "things", "object": "thing", "items": "things", "item": "thing",
    "whats": "what is", "what's": "what is", "centre": "center",
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'ASSISTANT: ' if message['role'] == 'assistant' else 'USER: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@cache
def vocabulary() -> tuple[str, ...]:
    """Every token in the order of its id: special ones, the two roles, then words by alphabet."""
    rng = random.Random(0)
    found = {*COLORS, *SHAPES, *WORDS, *DIGITS, *NUMBERS}
    found |= {word for words in SIZE_WORDS.values() for word in words}
    found |= {word for prompts in PROMPTS.values() for prompt in prompts for word in prompt.split()}
    for seed in range(2000):
        scene = sample_scene(seed)
        texts = [description(scene, style) for style in PROMPTS] + [fact_text(scene, [0])]
        for kind in KINDS:
            turn = ask(kind, scene, rng)
            texts += [turn.question, turn.answer] if turn else []
        found |= {word for text in texts for word in text.split()}
    return (*SPECIAL, *ROLES, *sorted(found))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the world's vocabulary; case and unknown words are forgiven."""
    words = vocabulary()
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    swaps = [normalizers.Replace(Regex(rf"\b{a}\b"), b) for a, b in SYNONYMS.items()]
    core.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), *swaps]
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    core.decoder = decoders.Sequence([decoders.WordPiece(prefix="\u2581\u2581", cleanup=True)])
    core.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIAL])
    core.add_tokens([AddedToken(word, normalized=False) for word in ROLES])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=1024,
    )


def build_processor() -> LlavaProcessor:
    """Image processor, tokenizer and chat template in one."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": EDGE},
            crop_size={"height": EDGE, "width": EDGE},
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def vision_config() -> CLIPVisionConfig:
    """Five layers of width 128 over 12 x 12 patches."""
    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=EDGE,
        patch_size=PATCH,
        hidden_act="gelu",
        initializer_range=0.04,
    )


def build_config(words: int, layers: int = 32) -> LlavaConfig:
    """LLaVA-1.5 in small: 32 text layers of width 128 with grouped-query attention.

    Args:
        words: Size of the vocabulary, special tokens included.
        layers: Text layers; fewer in tests.
    """
    text = LlamaConfig(
        vocab_size=words,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.04,
        rms_norm_eps=1e-6,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=VISUAL,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        initializer_range=0.04,
    )


@torch.no_grad()
def draw_weights(model: LlavaForConditionalGeneration) -> None:
    """Draw the language side's weights from scales that suit a deep and narrow model.

    With one small scale for everything, queries and keys 128 wide meet in scores near zero:
    attention is uniform and stays so for long. Inputs of a layer are drawn to keep variance,
    outputs smaller by the depth, so that the layers start near the identity.
    """
    width = model.config.text_config.hidden_size
    inner = model.config.text_config.intermediate_size
    quiet = (2 * model.config.text_config.num_hidden_layers) ** -0.5
    for layer in model.model.language_model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for matrix in (attention.q_proj, attention.k_proj):
            matrix.weight.normal_(std=1.2 * width**-0.5)
        for matrix in (attention.v_proj, mlp.gate_proj, mlp.up_proj):
            matrix.weight.normal_(std=width**-0.5)
        attention.o_proj.weight.normal_(std=2 * quiet * width**-0.5)
        mlp.down_proj.weight.normal_(std=2 * quiet * inner**-0.5)
    model.model.language_model.embed_tokens.weight.normal_(std=0.5)
    for matrix in (
        model.model.multi_modal_projector.linear_1,
        model.model.multi_modal_projector.linear_2,
    ):
        matrix.weight.normal_(std=width**-0.5)


@torch.no_grad()
def grow(
    model: LlavaForConditionalGeneration, layers: int, places: Sequence[int]
) -> LlavaForConditionalGeneration:
    """Deepen a model's language side without changing what it computes.

    The old layers move to the given places. Between them stand copies of the old layer before,
    their output projections zero; training takes them from there.

    Args:
        model: The model to grow from; stays as it is.
        layers: Text layers of the new model.
        places: New place of each old layer, ascending from 0.
    """
    config = build_config(model.config.text_config.vocab_size, layers)
    grown = LlavaForConditionalGeneration(config)
    grown.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "language_model.layers." not in k},
        strict=False,
    )
    old = model.model.language_model.layers
    for number, layer in enumerate(grown.model.language_model.layers):
        source = bisect_right(places, number) - 1
        layer.load_state_dict(old[source].state_dict())
        if number not in places:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return grown
