"""The family that the adapter serves: patches of pictures in the prompt of a language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationMixin,
    LlamaConfig,
    LlamaModel,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast


class HelloConfig(PretrainedConfig):
    """Settings of the family: those of its language model, and of its patches."""

    model_type = "hello"
    sub_configs = {"text_config": LlamaConfig}

    def __init__(
        self,
        text_config: Any = None,
        image_token_id: int = 90,
        patch_values: int = 12,
        **options: Any,
    ) -> None:
        """Take the language model's settings, the placeholder, and the numbers in a patch."""
        if text_config is None or isinstance(text_config, dict):
            text_config = LlamaConfig(**(text_config or {}))
        self.text_config = text_config
        self.image_token_id = image_token_id
        self.patch_values = patch_values
        super().__init__(**options)


class HelloModel(PreTrainedModel):
    """The model without its head."""

    config_class = HelloConfig
    _supports_sdpa = True

    def __init__(self, config: HelloConfig) -> None:
        """Build the projector and the language model."""
        super().__init__(config)
        self.projector = nn.Linear(config.patch_values, config.text_config.hidden_size)
        self.language_model = LlamaModel(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of text tokens."""
        return self.language_model.get_input_embeddings()

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None, **options: Any) -> Any:
        """Put the projected patches ``[patches, values]`` where the placeholders stand."""
        hidden = self.get_input_embeddings()(input_ids)
        places = input_ids == self.config.image_token_id
        if pixel_values is not None and bool(places.any()):
            if int(places.sum()) != len(pixel_values):
                raise ValueError(f"{int(places.sum())} placeholders, {len(pixel_values)} patches")
            patches = self.projector(pixel_values).to(hidden.dtype)
            hidden = hidden.masked_scatter(places[:, :, None], patches)
        return self.language_model(inputs_embeds=hidden, **options)


class HelloForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The model with its head."""

    config_class = HelloConfig
    _supports_sdpa = True

    def __init__(self, config: HelloConfig) -> None:
        """Build the model and a head of its own."""
        super().__init__(config)
        self.model = HelloModel(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of text tokens."""
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        logits_to_keep: int = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits after each token, or after the last ones."""
        output = self.model(input_ids, pixel_values, **options)
        hidden = output.last_hidden_state[:, -logits_to_keep:]
        return CausalLMOutputWithPast(
            logits=self.lm_head(hidden),
            past_key_values=output.past_key_values,
            attentions=output.attentions,
        )


def tiny_config() -> HelloConfig:
    """Return the settings of a model 32 wide with 6 layers."""
    return HelloConfig(
        text_config={
            "vocab_size": 100,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
        }
    )


def tiny_model(seed: int = 0) -> HelloForConditionalGeneration:
    """Build a tiny model with weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HelloForConditionalGeneration(tiny_config()).eval()


AutoConfig.register("hello", HelloConfig, exist_ok=True)
AutoModelForImageTextToText.register(HelloConfig, HelloForConditionalGeneration, exist_ok=True)
