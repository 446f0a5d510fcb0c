"""Small hub folders of every family: published kinds of config.json, random tensors, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from medvista_jax.models.examine import leaf_shapes
from medvista_jax.models.families import FAMILIES, read_config, with_tied
from medvista_jax.models.names import shape_on_disk
from medvista_jax.models.tensor_files import SINGLE

TINY: dict[str, dict[str, Any]] = {
    "qwen3_vl": {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "vocab_size": 98,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "dtype": "bfloat16",
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
    },
    "qwen2_5_vl": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": 98,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
    },
}
"""``model_type`` -> config.json. A new family adds its own, and every test of tests/models/test_hub.py runs on it."""


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensors_of(folder: Path, tied: bool = False, seed: int = 0, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Random tensors for the folder's config.json, by their names on disk."""
    family = FAMILIES[json.loads((folder / "config.json").read_text())["model_type"]]
    config = with_tied(read_config(family, folder), tied)
    shapes = leaf_shapes(family.model_class()(config))
    rng = np.random.default_rng(seed)
    return {
        entry.hub: rng.normal(size=shape_on_disk(entry, shapes[entry.path])).astype(dtype)
        for entry in family.entries(config)
    }


def make_folder(folder: Path, kind: str, tied: bool = False, dtype: Any = np.float32, **changes: Any) -> Path:
    """A sound checkpoint in one file; ``changes`` are of the top of config.json."""
    write_config(folder, TINY[kind] | {"tie_word_embeddings": tied} | changes)
    save_file(tensors_of(folder, tied, dtype=dtype), folder / SINGLE)
    return folder
