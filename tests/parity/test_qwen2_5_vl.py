"""Qwen2.5-VL against transformers: logits, window attention, greedy continuations, what must matter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from tests import tiny
from tests.parity import families, protocol
from tests.parity.families import qwen2_5_vl, qwen_inputs
from tests.parity.reference import TOLERANCE, gap, our_logits, their_logits

TWO_ROWS = ([5, (4, 6), 3, (8, 2), 4], [2, (2, 2), 7])
"""Three images of three shapes in two rows of different lengths; none is made of whole windows only."""
INPUTS = {
    "text only": ([11],),
    "one image": ([3, (6, 4), 5],),
    "several images": ([3, (6, 4), 2, (2, 10), 1, (8, 8), 4],),
    "image first and last": ([(4, 4), 3, (4, 8)],),
    "rows padded right": TWO_ROWS,
    "rows of text": ([9], [4], [6]),
}


@pytest.mark.parametrize("rows", INPUTS.values(), ids=INPUTS)
def test_logits(rows):
    protocol.check_logits(qwen2_5_vl(), qwen_inputs(qwen2_5_vl(), rows))


@pytest.mark.parametrize("left", [True, (True, False), (False, True)])
def test_padding_on_either_side(left):
    protocol.check_logits(qwen2_5_vl(), qwen_inputs(qwen2_5_vl(), TWO_ROWS, left))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_grouped_queries_and_tied_heads(kv_heads, tied):
    pair = qwen2_5_vl(text={"num_key_value_heads": kv_heads}, tied=tied)
    assert ("head" in pair.params["decoder"]) is not tied
    protocol.check_logits(pair, qwen_inputs(pair, TWO_ROWS))


WINDOWS = {
    "partial in both directions": (24, (10, 14)),
    "partial on the right": (24, (12, 10)),
    "partial below": (24, (8, 12)),
    "whole windows": (24, (12, 18)),
    "smaller than a window": (24, (4, 2)),
    "one row": (24, (2, 16)),
    "one embedding a window": (8, (6, 8)),
    "a window that is no whole number of blocks": (30, (10, 8)),
    "a window larger than any image": (4096, (10, 8)),
}
"""Pixels a window (of blocks of 8), and the grid of patches (of blocks of 2)."""


@pytest.mark.parametrize("window,grid", WINDOWS.values(), ids=WINDOWS)
def test_window_attention(window, grid):
    pair = qwen2_5_vl(vision={"window_size": window})
    protocol.check_logits(pair, qwen_inputs(pair, ([2, grid, 3],)))


@pytest.mark.parametrize("full", [(), (0, 2), (0, 1, 2, 3)], ids=["none", "two", "every"])
def test_layers_of_full_attention(full):
    pair = qwen2_5_vl(vision={"window_size": 24, "fullatt_block_indexes": full})
    protocol.check_logits(pair, qwen_inputs(pair, ([2, (10, 14), 3],)))


def test_epsilon_of_the_tower():
    """Nearly nothing to see: the first norm's epsilon is as large as what it is added to."""
    inputs = qwen_inputs(qwen2_5_vl(), TWO_ROWS)
    inputs["pixel_values"] *= np.float32(1e-3)
    protocol.check_logits(qwen2_5_vl(), inputs)


OTHER_SHAPES = {
    "merge of 1": {"vision": {"spatial_merge_size": 1}},
    "merge of 3": {"vision": {"spatial_merge_size": 3, "window_size": 24}},
    "one frame": {"vision": {"temporal_patch_size": 1}},
    "grey": {"vision": {"in_channels": 1}},
    "other frequencies of the tower": {"vision": {"rope_parameters": {"rope_type": "axial", "rope_theta": 50.0}}},
    "other activations": {"text": {"hidden_act": "gelu"}, "vision": {"hidden_act": "quick_gelu"}},
    "other epsilon": {"text": {"rms_norm_eps": 1e-2}},
    "wide heads": {"text": {"num_attention_heads": 2, "rope_parameters": families.mrope([3, 2, 3], theta=1e6)}},
    "other widths": {
        "text": {"hidden_size": 48, "intermediate_size": 20, "rope_parameters": families.mrope([1, 2, 3])},
        "vision": {"out_hidden_size": 48, "num_heads": 3, "intermediate_size": 17, "patch_size": 2, "window_size": 12},
    },
}


@pytest.mark.parametrize("settings", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_other_configurations(settings):
    pair = qwen2_5_vl(**settings)
    rows = ([5, (6, 12), 3], [2, (6, 6), 4, (12, 6)])
    protocol.check_logits(pair, qwen_inputs(pair, rows))


@pytest.mark.parametrize("left", [False, (True, False)])
def test_cached_decode_at_every_step(left):
    protocol.check_cached_decode(qwen2_5_vl(), qwen_inputs(qwen2_5_vl(), TWO_ROWS, left))


@pytest.mark.parametrize("rows", [([3, (6, 4), 5],), TWO_ROWS], ids=["one row", "two rows"])
def test_greedy_continuation(rows):
    protocol.check_greedy(qwen2_5_vl(), qwen_inputs(qwen2_5_vl(), rows, left=True))


def test_gradients():
    protocol.check_gradients(qwen2_5_vl(), qwen_inputs(qwen2_5_vl(), TWO_ROWS))


def test_bfloat16():
    protocol.check_bfloat16(qwen2_5_vl(), qwen_inputs(qwen2_5_vl(), TWO_ROWS))


def altered(part: str, **settings) -> float:
    """How far logits move from transformers' when one part of our configuration is another."""
    pair = qwen2_5_vl()
    inputs = qwen_inputs(pair, TWO_ROWS)
    changed = dataclasses.replace(getattr(pair.model.config, part), **settings)
    wrong = dataclasses.replace(pair.model, config=dataclasses.replace(pair.model.config, **{part: changed}))
    return gap(our_logits(pair, inputs, model=wrong), their_logits(pair, inputs), inputs["attention_mask"])


@pytest.mark.parametrize("section", [(1, 2, 1), (1, 1, 2)])
def test_rotary_sections_matter(section):
    assert altered("decoder", mrope_section=section) > 100 * TOLERANCE


@pytest.mark.parametrize("full", [(), (0,), (1, 2)])
def test_which_layers_are_full_matters(full):
    assert altered("vision", full_attention=full) > 100 * TOLERANCE


@pytest.mark.parametrize("window", [8, 24])
def test_size_of_the_windows_matters(window):
    assert altered("vision", window=window) > 100 * TOLERANCE


def test_one_shifted_position_matters():
    protocol.check_shift_matters(qwen2_5_vl(), qwen_inputs(qwen2_5_vl(), TWO_ROWS))


def test_views_are_what_the_hub_would_see():
    """``encode_images`` of uint8 views against the hub's image processor, at a size that it leaves as it is.

    The processor's own mean and deviation are those that Qwen2.5-VL's folders name.
    """
    pair, views = qwen2_5_vl(), np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=4096)
    inputs = processor([Image.fromarray(view) for view in views], return_tensors="np")
    assert inputs["image_grid_thw"].tolist() == [[1, 6, 10]] * 2
    protocol.check_views(pair, dict(inputs), views)


def test_rollout_and_update():
    """Views of four embeddings, each a window of its own but in one layer."""
    pair = qwen2_5_vl(text={"vocab_size": tiny.VOCAB}, vision={"window_size": 8})
    protocol.check_rollout_and_update(pair.model.with_image_size(16, 16), pair.params)
