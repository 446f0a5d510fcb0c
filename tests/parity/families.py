"""Small configurations of every family, and inputs for them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import transformers
from PIL import Image

from medvista_jax import models
from tests.parity.reference import Pair, assemble, make_pair

VOCAB = 160
START, IMAGE, END, VIDEO = 150, 151, 152, 153


def mrope(section: list[int], interleaved: bool = False, theta: float = 50.0) -> dict:
    """Rotary settings; the usual theta is small, so that every frequency turns within a short test."""
    settings = {"rope_type": "default", "rope_theta": theta, "mrope_section": section}
    return settings | ({"mrope_interleaved": True} if interleaved else {})


QWEN3_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "rope_parameters": mrope([6, 4, 2], interleaved=True),
}
QWEN3_VISION = {
    "depth": 4,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 2],
}
QWEN25_TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": mrope([2, 1, 1]),
}
QWEN25_VISION = {
    "depth": 4,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
SPECIAL = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}

INTERNVL_TEXT = {
    "model_type": "qwen2",
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0},
}
INTERNVL_VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
INTERNVL_SPECIAL = {"image_token_id": IMAGE, "image_seq_length": 4}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def qwen3_vl(text: dict = {}, vision: dict = {}, tied: bool = False, seed: int = 0) -> Pair:  # noqa: B006
    """Qwen3-VL: DeepStack from two of four layers, interleaved M-RoPE."""
    return _pair("Qwen3VL", json.dumps([QWEN3_TEXT | text, QWEN3_VISION | vision, SPECIAL, tied, seed]))


def qwen2_5_vl(text: dict = {}, vision: dict = {}, tied: bool = False, seed: int = 0) -> Pair:  # noqa: B006
    """Qwen2.5-VL: windows of 2 x 2 embeddings in all layers of the tower but one, M-RoPE in three runs."""
    return _pair("Qwen2_5_VL", json.dumps([QWEN25_TEXT | text, QWEN25_VISION | vision, SPECIAL, tied, seed]))


def internvl(text: dict = {}, vision: dict = {}, top: dict = {}, tied: bool = False, seed: int = 0) -> Pair:  # noqa: B006
    """InternVL3: tiles of 16 pixels a side that cost 4 embeddings each."""
    settings = [INTERNVL_TEXT | text, INTERNVL_VISION | vision, INTERNVL_SPECIAL | top, tied, seed]
    return _pair("InternVL", json.dumps(settings))


@functools.cache
def _pair(name: str, settings: str) -> Pair:
    text, vision, top, tied, seed = json.loads(settings)
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, **top
    )
    return make_pair(config, getattr(transformers, f"{name}ForConditionalGeneration"), models.load, seed)


def qwen_inputs(
    pair: Pair, rows: Sequence[Sequence[Any]], left: Sequence[bool] | bool = False, seed: int = 0
) -> dict[str, np.ndarray]:
    """Inputs of the Qwen families.

    Args:
      rows: parts of each row: a number is so many random text ids, a pair is an image of a grid of patches.
      left: whether padding stands on the left, for all rows or each.
    """
    rng = np.random.default_rng(seed)
    c = pair.model.config.vision
    ids, grids = [], []
    for parts in rows:
        row: list[int] = []
        for part in parts:
            if isinstance(part, int):
                row += rng.integers(1, START, part).tolist()
                continue
            height, width = part
            row += [START, *[IMAGE] * (height * width // c.merge**2), END]
            grids.append([1, height, width])
        ids.append(row)
    input_ids, mask = assemble(ids, left)
    inputs: dict[str, np.ndarray] = {"input_ids": input_ids, "attention_mask": mask}
    if grids:
        patches = sum(h * w for _, h, w in grids)
        inputs["pixel_values"] = rng.normal(size=(patches, c.channels * c.temporal * c.patch**2)).astype(np.float32)
        inputs["image_grid_thw"] = np.array(grids, np.int64)
    return inputs


def internvl_inputs(
    pair: Pair,
    rows: Sequence[Sequence[Any]],
    left: Sequence[bool] | bool = False,
    seed: int = 0,
    tile: tuple[int, int] | None = None,
    most: int = 6,
) -> dict[str, np.ndarray]:
    """Inputs of InternVL, cut by the hub's image processor: tiles of the best grid, then a thumbnail if there are two.

    Args:
      rows: parts of each row: a number is so many random text ids, a pair is an image of h × w pixels.
      left: whether padding stands on the left, for all rows or each.
      tile: h, w of a tile; the model's own by default.
      most: tiles an image may be cut into, the thumbnail not counted.
    """
    rng = np.random.default_rng(seed)
    height, width = tile or pair.model.image_size
    processor = transformers.GotOcr2ImageProcessorPil(
        size={"height": height, "width": width}, crop_to_patches=True, max_patches=most, **IMAGENET
    )
    cost = pair.model.with_image_size(height, width).tokens_per_image
    ids, tiles = [], []
    for parts in rows:
        row: list[int] = []
        for part in parts:
            if isinstance(part, int):
                row += rng.integers(1, START, part).tolist()
                continue
            pixels = rng.integers(0, 256, (*part, 3), dtype=np.uint8)
            tiles.extend(processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"])
            row += [START, *[IMAGE] * (cost * int(processor.get_number_of_image_patches(*part))), END]
        ids.append(row)
    input_ids, mask = assemble(ids, left)
    inputs: dict[str, np.ndarray] = {"input_ids": input_ids, "attention_mask": mask}
    return inputs | ({"pixel_values": np.stack(tiles)} if tiles else {})
