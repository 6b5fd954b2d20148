"""A tiny language model with a chat template, as a folder."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from twigkit.adapters.causal_lm import tiny_causal_lm
from twigkit.interfaces.tiny_models import spread_weights

TEMPLATE = (
    "{% for message in messages %}{{ '<s> ' + message['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s> ' }}{% endif %}"
)

NAMES = ["<pad>", "<s>", "</s>", "<unk>", "What", "is", "a", "the", "of", "Write", "and", "in"]


def write_chat_base(folder: Path) -> Path:
    """Write a Llama of 8 layers and 100 words, whose answers are long, with its tokenizer."""
    words = [*NAMES, *(f"w{number}" for number in range(len(NAMES), 100))]
    core = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    model = tiny_causal_lm("llama").model
    spread_weights(model, seed=3)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    return folder
