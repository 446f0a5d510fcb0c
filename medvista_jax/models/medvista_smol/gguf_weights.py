"""SmolLM2-135M-Instruct out of a llama.cpp file (GGUF): weights and configuration with the hub's names, tokenizer.

The weights were quantised to four bits a value (the embedding to eight) when the file was made; what is recovered is
exactly what llama.cpp computes with, not what Hugging Face published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_CONTROL = 3  # llama.cpp's type of tokens that stand for no text
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_gguf(path: Path) -> GGUFReader:
    """The file, opened for the functions below; tensors are read when they are asked for."""
    return GGUFReader(path)


def llama_config(reader: GGUFReader) -> dict[str, Any]:
    """``config.json`` of the language model, as transformers' LlamaConfig takes it."""
    value = lambda name: reader.fields[f"llama.{name}"].contents()  # noqa: E731
    heads = value("attention.head_count")
    return {
        "model_type": "llama",
        "vocab_size": value("vocab_size"),
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": value("embedding_length") // heads,
        "hidden_act": "silu",
        "max_position_embeddings": value("context_length"),
        # Stored in single precision: 9.999999747e-06 stands for 1e-05.
        "rms_norm_eps": float(f"{value('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_parameters": {"rope_type": "default", "rope_theta": value("rope.freq_base")},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": reader.fields["tokenizer.ggml.bos_token_id"].contents(),
        "eos_token_id": reader.fields["tokenizer.ggml.eos_token_id"].contents(),
        "pad_token_id": reader.fields["tokenizer.ggml.unknown_token_id"].contents(),  # <|endoftext|>
    }


def llama_weights(reader: GGUFReader) -> dict[str, np.ndarray]:
    """float32 tensors with the names of LlamaForCausalLM on disk; linear layers ``[out, in]``.

    Raises:
      ValueError: a tensor that is no part of a Llama.
    """
    heads = {
        "attn_q": reader.fields["llama.attention.head_count"].contents(),
        "attn_k": reader.fields["llama.attention.head_count_kv"].contents(),
    }
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        parts = tensor.name.split(".")
        if len(parts) == 4 and parts[0] == "blk" and parts[2] in _NAMES:
            if parts[2] in heads:
                values = halves(values, heads[parts[2]])
            weights[f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.weight"] = values
        elif tensor.name in ("token_embd.weight", "output_norm.weight"):
            hub = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm"}[tensor.name]
            weights[f"model.{hub}.weight"] = values
        else:
            raise ValueError(f"tensor {tensor.name!r} of the GGUF file is not one of a Llama's")
    return weights


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in the hub's order.

    llama.cpp rotates neighbouring values and so stores the rows of a head as 0, D/2, 1, D/2 + 1, …; the hub's
    rotation pairs value n with value n + D/2 and wants 0, 1, 2, ….
    """
    width = rows.shape[0] // heads
    return rows.reshape(heads, width // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def gguf_tokenizer(reader: GGUFReader, renamed: Mapping[str, str]) -> Tokenizer:
    """The file's byte-level BPE as a tokenizer of the ``tokenizers`` library.

    Args:
      renamed: special symbol of the file -> what it is called from now on; ids do not change.

    Raises:
      ValueError: the file holds another kind of tokenizer, or a symbol of ``renamed`` is not a special one.
    """
    kind = tuple(reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("model", "pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"the GGUF file's tokenizer is of kind {kind}, not ('gpt2', 'smollm')")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    if missing := set(renamed) - set(special):
        raise ValueError(f"{sorted(missing)} are no special symbols of the GGUF file")
    tokens = [renamed.get(token, token) for token in tokens]
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    # "smollm": digits are cut out one by one, then GPT-2's pattern.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(renamed.get(t, t), special=True, normalized=False) for t in special])
    return tokenizer
