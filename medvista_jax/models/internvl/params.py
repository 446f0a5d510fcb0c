"""InternVL3 on disk: names of the hub's tensors, configuration, sharding."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax.sharding import PartitionSpec

from medvista_jax.models import decoder_params
from medvista_jax.models.blocks import ACTIVATIONS
from medvista_jax.models.decoder_params import decoder_entries, dense_entries, norm_entries
from medvista_jax.models.internvl.modeling import InternVLConfig, VisionConfig
from medvista_jax.models.names import Entry, Layout
from medvista_jax.runtime.sharding import Rules

RULES: Rules = (
    *decoder_params.RULES,
    (r"^vision/.*/(q|k|v|up)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"^vision/.*/(o|down)/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"^vision/.*/(q|k|v|up)/bias$", PartitionSpec("tensor")),
    (r"^connector/up/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"^connector/down/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"^connector/up/bias$", PartitionSpec("tensor")),
    (r"^vision/patch/kernel$", (PartitionSpec("fsdp", "tensor"), PartitionSpec(None, ("fsdp", "tensor")))),
    (r"^vision/position$", PartitionSpec(None, None, ("fsdp", "tensor"))),
)
"""(regex on the path, specification); the first that is found counts."""

IN_MEMORY: tuple[tuple[str, str], ...] = (
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^", "model."),
)
"""(regex on the name on disk, replacement): what transformers calls a tensor in memory, and PEFT its adapters."""

DECODERS = ("qwen2", "qwen3", "llama")
NORMS = ("layer_norm", "rms_norm")
STRATEGIES = ("default", "full")


def config_from_hub(config: Any, tied: bool | None = None) -> InternVLConfig:
    """Our configuration from transformers' ``InternVLConfig``.

    Args:
      config: what ``AutoConfig.from_pretrained`` gives.
      tied: whether the checkpoint has no ``lm_head``; ``None`` asks the configuration. Its own flag counts, not that of
        its text configuration, which often says the opposite.

    Raises:
      ValueError: a setting that is not ported, or tiles that do not fit the pixel shuffle.
    """
    vision, text = config.vision_config, config.text_config
    _known("text_config.model_type", text.model_type, DECODERS)
    _known("vision_config.hidden_act", vision.hidden_act, ACTIVATIONS)
    _known("vision_config.norm_type", vision.norm_type, NORMS)
    _known("vision_config.num_channels", vision.num_channels, (3,))
    _known("projector_hidden_act", config.projector_hidden_act, ACTIVATIONS)
    _known("vision_feature_select_strategy", config.vision_feature_select_strategy, STRATEGIES)
    states = vision.num_hidden_layers + 1
    _known("vision_feature_layer", config.vision_feature_layer, range(-states, states))
    merge = round(1 / config.downsample_ratio)
    if merge < 1 or merge * config.downsample_ratio != 1:
        raise ValueError(f"downsample_ratio {config.downsample_ratio} is not 1 over a whole number")
    ours = InternVLConfig(
        vision=VisionConfig(
            width=vision.hidden_size,
            layers=vision.num_hidden_layers,
            heads=vision.num_attention_heads,
            feed_forward=vision.intermediate_size,
            image_size=_pair(vision.image_size),
            patch=_pair(vision.patch_size),
            activation=vision.hidden_act,
            norm=vision.norm_type,
            norm_epsilon=float(vision.layer_norm_eps),
            qkv_bias=bool(vision.attention_bias),
            qk_norm=bool(vision.use_qk_norm),
            positions=bool(vision.use_absolute_position_embeddings),
            mask_token=bool(vision.use_mask_token),
            final_norm=not vision.use_mean_pooling,
            layer_scale=float(vision.layer_scale_init_value),
        ),
        decoder=decoder_params.decoder_config(text, bool(config.tie_word_embeddings) if tied is None else tied),
        image_token=config.image_token_id,
        merge=merge,
        activation=config.projector_hidden_act,
        feature_layer=config.vision_feature_layer,
        keep_cls=config.vision_feature_select_strategy == "full",
    )
    ours.side(*ours.vision.image_size)
    return ours


def _known(name: str, value: Any, known: Any) -> None:
    if value not in known:
        listed = f"{known[0]}…{known[-1]}" if isinstance(known, range) else ", ".join(map(str, known))
        raise ValueError(f"{name} {value!r} is not supported; known: {listed}")


def _pair(size: Any) -> tuple[int, int]:
    """Height and width; a single number is both."""
    return (int(size),) * 2 if isinstance(size, int) else (int(size[0]), int(size[1]))


def entries(config: InternVLConfig) -> tuple[Entry, ...]:
    """One entry a leaf. In memory transformers calls them otherwise; those names are taken too."""
    table = _vision_entries(config.vision)
    hub = "multi_modal_projector."
    table += norm_entries(hub + "layer_norm", "connector/norm")
    table += dense_entries(hub + "linear_1", "connector/up") + dense_entries(hub + "linear_2", "connector/down")
    return (
        *decoder_entries(
            config.decoder,
            "language_model.model.",
            "language_model.lm_head.weight",
            ("model.language_model.",),
            ("lm_head.weight",),
        ),
        *(dataclasses.replace(entry, aliases=(f"model.{entry.hub}",)) for entry in table),
    )


def _vision_entries(c: VisionConfig) -> list[Entry]:
    tower = "vision_tower."
    patch = f"{tower}embeddings.patch_embeddings.projection"
    table = [
        Entry(f"{tower}embeddings.cls_token", "vision/cls"),
        Entry(f"{patch}.weight", "vision/patch/kernel", Layout.PATCHES, (c.width, 3, *c.patch)),
        Entry(f"{patch}.bias", "vision/patch/bias"),
    ]
    if c.positions:
        table.append(Entry(f"{tower}embeddings.position_embeddings", "vision/position"))
    if c.mask_token:
        table.append(Entry(f"{tower}embeddings.mask_token", "vision/mask"))
    for i in range(c.layers):
        hub, ours = f"{tower}encoder.layer.{i}.", f"vision/layer_{i}/"
        table += [Entry(f"{hub}lambda_{n}", f"{ours}lambda_{n}") for n in (1, 2)]
        for name, path in (("layernorm_before", "norm1"), ("layernorm_after", "norm2")):
            table += norm_entries(hub + name, ours + path, bias=c.norm == "layer_norm")
        for x in "qkv":
            table += dense_entries(f"{hub}attention.{x}_proj", ours + x, c.qkv_bias)
        table += dense_entries(f"{hub}attention.projection_layer", ours + "o")
        if c.qk_norm:
            table += [e for x in "qk" for e in norm_entries(f"{hub}attention.{x}_norm", f"{ours}{x}_norm", bias=False)]
        table += dense_entries(hub + "mlp.fc1", ours + "up") + dense_entries(hub + "mlp.fc2", ours + "down")
    if c.final_norm:
        table += norm_entries(f"{tower}layernorm", "vision/norm")
    return table
