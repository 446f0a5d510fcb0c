"""The shared decoder on disk: names, configuration and sharding rules that every family's ``params.py`` builds on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.sharding import PartitionSpec

from medvista_jax.models.blocks import ACTIVATIONS, DecoderConfig
from medvista_jax.models.names import Entry, Layout
from medvista_jax.runtime.sharding import Rules

RULES: Rules = (
    # Some vocabularies are odd; their tables are cut by width.
    (r"^decoder/(embedding|head)$", (PartitionSpec("tensor", "fsdp"), PartitionSpec(None, ("fsdp", "tensor")))),
    (r"^decoder/.*/(q|k|v|gate|up)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"^decoder/.*/(q|k|v|gate|up)/bias$", PartitionSpec("tensor")),
    (r"^decoder/.*/(o|down)/kernel$", PartitionSpec("tensor", "fsdp")),
)
"""(regex on the path, specification): column-parallel in, row-parallel out (Megatron, arXiv 1909.08053)."""

ADAPTER_RULES: Rules = (
    (r"/(o|out|proj|down)/kernel_lora_a$", PartitionSpec("tensor", None)),
    (r"/(o|out|proj|down)/kernel_lora_b$", PartitionSpec(None, "fsdp")),
    (r"/kernel_lora_a$", PartitionSpec("fsdp", None)),
    (r"/kernel_lora_b$", PartitionSpec(None, "tensor")),
)
"""The same for LoRA's two factors beside any kernel; the inner width is small and whole everywhere."""

_BLOCK = (
    ("input_layernorm.weight", "attention_norm/scale", Layout.SAME),
    ("self_attn.q_proj.weight", "q/kernel", Layout.LINEAR),
    ("self_attn.k_proj.weight", "k/kernel", Layout.LINEAR),
    ("self_attn.v_proj.weight", "v/kernel", Layout.LINEAR),
    ("self_attn.o_proj.weight", "o/kernel", Layout.LINEAR),
    ("post_attention_layernorm.weight", "feed_forward_norm/scale", Layout.SAME),
    ("mlp.gate_proj.weight", "gate/kernel", Layout.LINEAR),
    ("mlp.up_proj.weight", "up/kernel", Layout.LINEAR),
    ("mlp.down_proj.weight", "down/kernel", Layout.LINEAR),
)
_QKV_BIAS = tuple((f"self_attn.{x}_proj.bias", f"{x}/bias", Layout.SAME) for x in "qkv")
_OUTPUT_BIAS = (("self_attn.o_proj.bias", "o/bias", Layout.SAME),)
_QK_NORM = tuple((f"self_attn.{x}_norm.weight", f"{x}_norm/scale", Layout.SAME) for x in "qk")


def block_names(config: DecoderConfig) -> tuple[tuple[str, str, Layout], ...]:
    """(name on disk, path, layout) of one layer's leaves, both relative to the layer."""
    optional = ((config.qkv_bias, _QKV_BIAS), (config.output_bias, _OUTPUT_BIAS), (config.qk_norm, _QK_NORM))
    return _BLOCK + sum((names for there, names in optional if there), ())


def decoder_entries(
    config: DecoderConfig, body: str, head: str, body_aliases: Sequence[str] = (), head_aliases: Sequence[str] = ()
) -> tuple[Entry, ...]:
    """Entries of ``params["decoder"]``.

    Args:
      body: what stands before ``embed_tokens``, ``layers`` and ``norm`` on disk, such as ``"model.language_model."``.
      head: full name of the output embedding on disk; not used for a tied model.
      body_aliases, head_aliases: the same in other layouts of the family.
    """

    def entry(name: str, path: str, layout: Layout = Layout.SAME) -> Entry:
        return Entry(body + name, f"decoder/{path}", layout, aliases=tuple(other + name for other in body_aliases))

    entries = [entry("embed_tokens.weight", "embedding"), entry("norm.weight", "final_norm/scale")]
    for i in range(config.layers):
        entries += [
            entry(f"layers.{i}.{name}", f"layer_{i}/{path}", layout) for name, path, layout in block_names(config)
        ]
    if not config.tied:
        entries.append(Entry(head, "decoder/head", aliases=tuple(head_aliases)))
    return tuple(entries)


def dense_entries(hub: str, path: str, bias: bool = True) -> tuple[Entry, ...]:
    """Entries of a ``Dense`` module: torch's ``weight`` and ``bias``."""
    kernel = Entry(f"{hub}.weight", f"{path}/kernel", Layout.LINEAR)
    return (kernel, Entry(f"{hub}.bias", f"{path}/bias")) if bias else (kernel,)


def norm_entries(hub: str, path: str, bias: bool = True) -> tuple[Entry, ...]:
    """Entries of a ``LayerNorm`` (or, without bias, an ``RMSNorm``) module."""
    scale = Entry(f"{hub}.weight", f"{path}/scale")
    return (scale, Entry(f"{hub}.bias", f"{path}/bias")) if bias else (scale,)


def rope_of(text: Any) -> dict[str, Any]:
    """The rotary settings of a hub text configuration: ``rope_parameters`` of today or the keys of older layouts.

    Raises:
      ValueError: a kind of scaling that is not ported.
    """
    rope = dict(getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {})
    rope.setdefault("rope_theta", getattr(text, "rope_theta", None) or 10_000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    # "dynamic" changes nothing up to max_position_embeddings, and DecoderConfig.max_positions holds it to that.
    if kind not in ("default", "mrope", "dynamic"):
        raise ValueError(f"rotary scaling {kind!r} is not supported; the ports know 'default', 'mrope' and 'dynamic'")
    return rope | {"rope_type": kind}


def decoder_config(text: Any, tied: bool, **overrides: Any) -> DecoderConfig:
    """Configuration of the decoder from a hub text configuration (Qwen2, Qwen3, Llama and their VL kin).

    Args:
      text: ``config.text_config`` as transformers gives it.
      tied: whether the checkpoint has no output embedding of its own.
      overrides: fields that the family knows better.

    Raises:
      ValueError: an activation, rotary scaling or sliding window that is not ported.
    """
    if text.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act {text.hidden_act!r} is not supported; known: {', '.join(ACTIVATIONS)}")
    if getattr(text, "use_sliding_window", False):
        raise ValueError("use_sliding_window is set in the text configuration; only full attention is supported")
    if getattr(text, "mlp_bias", False):
        raise ValueError("mlp_bias is set in the text configuration; feed-forward layers with biases are not supported")
    rope = rope_of(text)
    kind = text.model_type
    bias = bool(getattr(text, "attention_bias", False))
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    settings = {
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "layers": text.num_hidden_layers,
        "heads": text.num_attention_heads,
        "kv_heads": getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        "head_dim": head_dim,
        "feed_forward": text.intermediate_size,
        "rope_theta": float(rope["rope_theta"]),
        "norm_epsilon": float(text.rms_norm_eps),
        "activation": text.hidden_act,
        "tied": tied,
        # Qwen2 always has biases on q, k and v and never on o; the others ask their configuration.
        "qkv_bias": bias or kind.startswith(("qwen2", "qwen2_5")),
        "output_bias": bias and not kind.startswith("qwen2"),
        "qk_norm": kind.startswith("qwen3"),
        "mrope_section": tuple(rope.get("mrope_section") or ()),
        "embedding_scale": 1.0,
        "max_positions": text.max_position_embeddings if rope["rope_type"] == "dynamic" else None,
    }
    return DecoderConfig(**(settings | overrides))
