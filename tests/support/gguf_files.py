"""Tiny models as GGUF files, written with the gguf package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def write_llama(model: Any, path: Path) -> None:
    """Write a Llama with its layers' matrices in blocks of four bits (Q4_0).

    Args:
        model: The model.
        path: The file.
    """
    import gguf

    config, four = model.config, gguf.GGMLQuantizationType.Q4_0
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        part = name.removesuffix(".weight")
        prefix = ""
        if part.startswith("model.layers."):
            number, part = part.removeprefix("model.layers.").split(".", 1)
            prefix = f"blk.{number}."
        if count := heads.get(part.rpartition(".")[2]):
            values = _interleave(values, count)
        if prefix and values.ndim == 2:
            blocks = gguf.quants.quantize(np.ascontiguousarray(values), four)
            writer.add_tensor(f"{prefix}{_NAMES[part]}.weight", blocks, raw_dtype=four)
        else:
            writer.add_tensor(f"{prefix}{_NAMES[part]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleave(values: np.ndarray, heads: int) -> np.ndarray:
    """Put the rows of each head in GGUF's order, rotary pairs side by side."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
