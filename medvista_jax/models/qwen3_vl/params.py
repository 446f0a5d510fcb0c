"""Qwen3-VL on disk: names of the hub's tensors, configuration, sharding."""

from __future__ import annotations

from typing import Any

from jax.sharding import PartitionSpec

from medvista_jax.models import decoder_params
from medvista_jax.models.blocks import ACTIVATIONS
from medvista_jax.models.decoder_params import decoder_entries, dense_entries, norm_entries
from medvista_jax.models.names import Entry, Layout
from medvista_jax.models.qwen3_vl.modeling import Qwen3VLConfig, VisionConfig
from medvista_jax.runtime.sharding import Rules

RULES: Rules = (
    *decoder_params.RULES,
    (r"^(vision|connector)/.*/(qkv|up)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"^(vision|connector)/.*/(proj|down)/kernel$", PartitionSpec("tensor", "fsdp")),
    (r"^(vision|connector)/.*/(qkv|up)/bias$", PartitionSpec("tensor")),
    (r"^vision/patch/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"^vision/position$", PartitionSpec("fsdp", "tensor")),
)
"""(regex on the path, specification); the first that is found counts."""


def config_from_hub(config: Any, tied: bool | None = None) -> Qwen3VLConfig:
    """Our configuration from transformers' ``Qwen3VLConfig``.

    Args:
      config: what ``AutoConfig.from_pretrained`` gives.
      tied: whether the checkpoint has no ``lm_head``; ``None`` asks the configuration.

    Raises:
      ValueError: a setting that is not ported.
    """
    vision, text = config.vision_config, config.text_config
    if vision.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act {vision.hidden_act!r} of the vision tower is not supported")
    rope = decoder_params.rope_of(text)
    # Published configurations leave the flag out or write it; the architecture always interleaves.
    decoder = decoder_params.decoder_config(
        text,
        bool(config.tie_word_embeddings) if tied is None else tied,
        mrope_section=tuple(rope.get("mrope_section") or (24, 20, 20)),
        mrope_interleaved=True,
    )
    return Qwen3VLConfig(
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
            grid=int(vision.num_position_embeddings**0.5),
            deepstack=tuple(vision.deepstack_visual_indexes),
            activation=vision.hidden_act,
            rope_theta=float((getattr(vision, "rope_parameters", None) or {}).get("rope_theta", 10_000.0)),
        ),
        decoder=decoder,
        image_token=config.image_token_id,
    )


def entries(config: Qwen3VLConfig) -> tuple[Entry, ...]:
    """One entry a leaf."""
    c, tower = config.vision, "model.visual."
    window = (c.width, c.channels, c.temporal, c.patch, c.patch)
    table = [
        *decoder_entries(config.decoder, "model.language_model.", "lm_head.weight"),
        Entry(f"{tower}patch_embed.proj.weight", "vision/patch/kernel", Layout.PATCHES, window),
        Entry(f"{tower}patch_embed.proj.bias", "vision/patch/bias"),
        Entry(f"{tower}pos_embed.weight", "vision/position"),
    ]
    for i in range(c.layers):
        hub, ours = f"{tower}blocks.{i}.", f"vision/layer_{i}/"
        table += norm_entries(hub + "norm1", ours + "norm1") + norm_entries(hub + "norm2", ours + "norm2")
        table += dense_entries(hub + "attn.qkv", ours + "attention/qkv")
        table += dense_entries(hub + "attn.proj", ours + "attention/proj")
        table += dense_entries(hub + "mlp.linear_fc1", ours + "up")
        table += dense_entries(hub + "mlp.linear_fc2", ours + "down")
    mergers = {"merger": "merger"} | {f"deepstack_merger_list.{i}": f"deepstack_{i}" for i in range(len(c.deepstack))}
    for hub, ours in mergers.items():
        hub, ours = tower + hub, f"connector/{ours}"
        table += norm_entries(hub + ".norm", ours + "/norm")
        table += dense_entries(hub + ".linear_fc1", ours + "/up") + dense_entries(hub + ".linear_fc2", ours + "/down")
    return tuple(table)
