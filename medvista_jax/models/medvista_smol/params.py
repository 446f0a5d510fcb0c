"""The packaged model on disk: names of the tensors, configuration, sharding.

The names are those of transformers' LlamaForCausalLM and Dinov2Model on disk behind ``language_model.`` and
``vision_tower.``; the connector's stand behind ``multi_modal_projector.``.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from jax.sharding import PartitionSpec

from medvista_jax.models import decoder_params
from medvista_jax.models.blocks import ACTIVATIONS
from medvista_jax.models.decoder_params import decoder_entries, dense_entries, norm_entries
from medvista_jax.models.medvista_smol.modeling import MedVistaSmolConfig, VisionConfig
from medvista_jax.models.names import Entry, Layout
from medvista_jax.runtime.sharding import Rules

RULES: Rules = (
    *decoder_params.RULES,
    (r"^(vision|connector)/(.*/)?(query|key|value|up|patch)/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"^(vision|connector)/(.*/)?(query|key|value|up)/bias$", PartitionSpec("tensor")),
    (r"^(vision|connector)/(.*/)?(out|down)/kernel$", PartitionSpec("tensor", "fsdp")),
)
"""(regex on the path, specification); the first that is found counts."""

_LAYER = (
    ("attention.attention.query", "query"),
    ("attention.attention.key", "key"),
    ("attention.attention.value", "value"),
    ("attention.output.dense", "out"),
    ("mlp.fc1", "up"),
    ("mlp.fc2", "down"),
)


def config_from_hub(config: Mapping[str, Any], tied: bool | None = None) -> MedVistaSmolConfig:
    """Our configuration from ``config.json``, which transformers does not know as a whole.

    Args:
      config: the JSON object; its parts are those of transformers' Llama and Dinov2.
      tied: whether the checkpoint has no ``lm_head``; ``None`` asks the configuration.

    Raises:
      ValueError: a field is missing, or a setting that is not ported.
    """
    try:
        vision, text = (types.SimpleNamespace(**config[part]) for part in ("vision_config", "text_config"))
        for activation in (vision.hidden_act, config["projector_hidden_act"]):
            if activation not in ACTIVATIONS:
                raise ValueError(f"hidden_act {activation!r} is not supported; known: {', '.join(ACTIVATIONS)}")
        if getattr(vision, "use_swiglu_ffn", False):
            raise ValueError("use_swiglu_ffn is set in the vision configuration; only plain feed-forward is supported")
        return MedVistaSmolConfig(
            decoder=decoder_params.decoder_config(
                text, config.get("tie_word_embeddings", True) if tied is None else tied
            ),
            image_token=config["image_token_id"],
            vision=VisionConfig(
                width=vision.hidden_size,
                layers=vision.num_hidden_layers,
                heads=vision.num_attention_heads,
                feed_forward=int(vision.hidden_size * vision.mlp_ratio),
                patch=vision.patch_size,
                channels=vision.num_channels,
                grid=vision.image_size // vision.patch_size,
                norm_epsilon=float(vision.layer_norm_eps),
                activation=vision.hidden_act,
                qkv_bias=bool(vision.qkv_bias),
            ),
            connector_width=config["projector_hidden_size"],
            merge=config["merge_size"],
            connector_activation=config["projector_hidden_act"],
            view=tuple(config.get("view_size", (224, 224))),
        )
    except KeyError as error:
        raise ValueError(f"the configuration has no {error.args[0]!r}") from None
    except AttributeError as error:
        raise ValueError(f"text_config or vision_config has no {error.name!r}") from None


def entries(config: MedVistaSmolConfig) -> tuple[Entry, ...]:
    """One entry a leaf."""
    c, tower = config.vision, "vision_tower."
    window = (c.width, c.channels, c.patch, c.patch)
    table = [
        *decoder_entries(config.decoder, "language_model.model.", "language_model.lm_head.weight"),
        Entry(f"{tower}embeddings.cls_token", "vision/class_token"),
        Entry(f"{tower}embeddings.position_embeddings", "vision/position"),
        Entry(f"{tower}embeddings.patch_embeddings.projection.weight", "vision/patch/kernel", Layout.PATCHES, window),
        Entry(f"{tower}embeddings.patch_embeddings.projection.bias", "vision/patch/bias"),
        *norm_entries(f"{tower}layernorm", "vision/final_norm"),
        *dense_entries("multi_modal_projector.linear_1", "connector/up"),
        *dense_entries("multi_modal_projector.linear_2", "connector/down"),
    ]
    for i in range(c.layers):
        hub, ours = f"{tower}encoder.layer.{i}.", f"vision/layer_{i}/"
        for norm in ("norm1", "norm2"):
            table += norm_entries(hub + norm, ours + norm)
        for number in (1, 2):
            table.append(Entry(f"{hub}layer_scale{number}.lambda1", f"{ours}scale{number}"))
        for name, path in _LAYER:
            table += dense_entries(hub + name, ours + path, c.qkv_bias or path not in ("query", "key", "value"))
    return tuple(table)
