"""Qwen2.5-VL on disk: names of the hub's tensors, configuration, sharding."""

from __future__ import annotations

import dataclasses
from typing import Any

from jax.sharding import PartitionSpec

from medvista_jax.models import decoder_params
from medvista_jax.models.blocks import ACTIVATIONS
from medvista_jax.models.decoder_params import decoder_entries, dense_entries, norm_entries
from medvista_jax.models.names import Entry, Layout
from medvista_jax.models.qwen2_5_vl.modeling import Qwen25VLConfig, VisionConfig
from medvista_jax.runtime.sharding import Rules

RULES: Rules = (
    *decoder_params.RULES,
    (r"^(vision|connector)/(.*/)?(qkv|gate|up)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"^(vision|connector)/(.*/)?(proj|down)/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"^(vision|connector)/(.*/)?(qkv|gate|up)/bias$", PartitionSpec("tensor")),
    (r"^vision/patch/kernel$", PartitionSpec("fsdp", "tensor")),
)
"""(regex on the path, specification); the first that is found counts."""

IN_MEMORY: tuple[tuple[str, str], ...] = ((r"^visual\.", "model.visual."), (r"^model\.", "model.language_model."))
"""(regex on the name on disk, replacement): what transformers calls a tensor in memory, and PEFT its adapters."""


def config_from_hub(config: Any, tied: bool | None = None) -> Qwen25VLConfig:
    """Our configuration from transformers' ``Qwen2_5_VLConfig``.

    Args:
      config: what ``AutoConfig.from_pretrained`` gives; it has sorted the flat layout of the published folders already.
      tied: whether the checkpoint has no ``lm_head``; ``None`` asks the configuration.

    Raises:
      ValueError: a setting that is not ported or that contradicts another.
    """
    vision, text = config.vision_config, config.text_config
    if vision.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act {vision.hidden_act!r} of the vision tower is not supported")
    block = vision.patch_size * vision.spatial_merge_size
    if vision.window_size < block:
        raise ValueError(
            f"window_size {vision.window_size} of the vision tower is smaller than one merged block of {block} pixels"
        )
    section = tuple(decoder_params.rope_of(text).get("mrope_section") or (16, 24, 24))
    decoder = decoder_params.decoder_config(
        text,
        bool(config.tie_word_embeddings) if tied is None else tied,
        mrope_section=section,
    )
    if len(section) != 3 or sum(section) != decoder.head_dim // 2:
        raise ValueError(
            f"mrope_section {list(section)} must be three numbers that sum to {decoder.head_dim // 2}, half the width "
            "of an attention head"
        )
    return Qwen25VLConfig(
        vision=VisionConfig(
            width=vision.hidden_size,
            layers=vision.depth,
            heads=vision.num_heads,
            feed_forward=vision.intermediate_size,
            out_width=vision.out_hidden_size,
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            temporal=vision.temporal_patch_size,
            channels=vision.in_channels,
            window=vision.window_size,
            full_attention=tuple(vision.fullatt_block_indexes),
            activation=vision.hidden_act,
            rope_theta=float((getattr(vision, "rope_parameters", None) or {}).get("rope_theta", 10_000.0)),
        ),
        decoder=decoder,
        image_token=config.image_token_id,
    )


def entries(config: Qwen25VLConfig) -> tuple[Entry, ...]:
    """One entry a leaf. Folders hold the older names; the aliases are those that transformers uses in memory."""
    tower = (dataclasses.replace(entry, aliases=(f"model.{entry.hub}",)) for entry in _tower_entries(config.vision))
    return *decoder_entries(config.decoder, "model.", "lm_head.weight", ("model.language_model.",)), *tower


def _tower_entries(c: VisionConfig) -> tuple[Entry, ...]:
    window = (c.width, c.channels, c.temporal, c.patch, c.patch)
    table = [Entry("visual.patch_embed.proj.weight", "vision/patch/kernel", Layout.PATCHES, window)]
    for i in range(c.layers):
        hub, ours = f"visual.blocks.{i}.", f"vision/layer_{i}/"
        for norm in ("norm1", "norm2"):
            table += norm_entries(hub + norm, ours + norm, bias=False)
        table += dense_entries(hub + "attn.qkv", ours + "attention/qkv")
        table += dense_entries(hub + "attn.proj", ours + "attention/proj")
        for part in ("gate", "up", "down"):
            table += dense_entries(f"{hub}mlp.{part}_proj", ours + part)
    table += norm_entries("visual.merger.ln_q", "connector/norm", bias=False)
    table += dense_entries("visual.merger.mlp.0", "connector/up")
    table += dense_entries("visual.merger.mlp.2", "connector/down")
    return tuple(table)
