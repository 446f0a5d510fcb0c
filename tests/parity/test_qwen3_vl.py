"""Qwen3-VL against transformers: logits, greedy continuations, what must matter."""

from __future__ import annotations

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from tests import tiny
from tests.parity import families, protocol
from tests.parity.families import qwen3_vl, qwen_inputs
from tests.parity.reference import TOLERANCE, changed, gap, our_logits, their_logits

TWO_ROWS = ([5, (4, 6), 3, (8, 2), 4], [2, (2, 2), 7])
"""Three images of three shapes in two rows of different lengths."""
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
    protocol.check_logits(qwen3_vl(), qwen_inputs(qwen3_vl(), rows))


@pytest.mark.parametrize("left", [True, (True, False), (False, True)])
def test_padding_on_either_side(left):
    protocol.check_logits(qwen3_vl(), qwen_inputs(qwen3_vl(), TWO_ROWS, left))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_grouped_queries_and_tied_heads(kv_heads, tied):
    pair = qwen3_vl(text={"num_key_value_heads": kv_heads}, tied=tied)
    assert ("head" in pair.params["decoder"]) is not tied
    protocol.check_logits(pair, qwen_inputs(pair, TWO_ROWS))


OTHER_SHAPES = {
    "attention biases": {"text": {"attention_bias": True}},
    "one DeepStack layer": {"vision": {"deepstack_visual_indexes": [3]}},
    "DeepStack layers out of order": {"vision": {"deepstack_visual_indexes": [3, 0, 1]}},
    "no DeepStack": {"vision": {"deepstack_visual_indexes": []}},
    "as many DeepStack layers as decoder layers": {"vision": {"deepstack_visual_indexes": [0, 1, 3]}},
    "merge of 1": {"vision": {"spatial_merge_size": 1}},
    "merge of 3": {"vision": {"spatial_merge_size": 3}},
    "one frame": {"vision": {"temporal_patch_size": 1}},
    "grid smaller than the image": {"vision": {"num_position_embeddings": 9}},
    "narrow heads": {"text": {"head_dim": 8, "rope_parameters": families.mrope([2, 1, 1], True)}},
    "other sections": {"text": {"rope_parameters": families.mrope([4, 4, 4], True, 1e6)}},
    "other epsilon and activation": {"text": {"rms_norm_eps": 1e-2, "hidden_act": "gelu"}},
}


@pytest.mark.parametrize("settings", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_other_configurations(settings):
    pair = qwen3_vl(**settings)
    rows = ([5, (6, 12), 3], [2, (6, 6), 4, (12, 6)])
    protocol.check_logits(pair, qwen_inputs(pair, rows))


@pytest.mark.parametrize("left", [False, (True, False)])
def test_cached_decode_at_every_step(left):
    protocol.check_cached_decode(qwen3_vl(), qwen_inputs(qwen3_vl(), TWO_ROWS, left))


@pytest.mark.parametrize("rows", [([3, (6, 4), 5],), TWO_ROWS], ids=["one row", "two rows"])
def test_greedy_continuation(rows):
    protocol.check_greedy(qwen3_vl(), qwen_inputs(qwen3_vl(), rows, left=True))


def test_gradients():
    protocol.check_gradients(qwen3_vl(), qwen_inputs(qwen3_vl(), TWO_ROWS))


def test_bfloat16():
    protocol.check_bfloat16(qwen3_vl(), qwen_inputs(qwen3_vl(), TWO_ROWS))


def test_means_far_from_zero():
    """LayerNorm's variance does not cancel where a checkpoint's activations stand far from 0."""
    pair = qwen3_vl()
    inputs = qwen_inputs(pair, TWO_ROWS)
    theirs = copy.deepcopy(pair.theirs)
    theirs.model.visual.patch_embed.proj.bias.data.add_(100.0)
    ours = our_logits(pair, inputs, changed(pair.params, "vision/patch/bias", lambda leaf: leaf + 100.0))
    expected = their_logits(dataclasses.replace(pair, theirs=theirs), inputs)
    assert gap(ours, expected, inputs["attention_mask"]) <= TOLERANCE


MATTERS = ["connector/deepstack_0/down", "connector/deepstack_1/down", "connector/merger/down", "vision/position"]


@pytest.mark.parametrize("path", MATTERS)
def test_what_must_matter(path):
    pair = qwen3_vl()
    inputs = qwen_inputs(pair, TWO_ROWS)
    without = our_logits(pair, inputs, changed(pair.params, path, jnp.zeros_like))
    assert gap(without, their_logits(pair, inputs), inputs["attention_mask"]) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "decoder", [{"mrope_section": (6, 2, 4)}, {"mrope_section": (2, 6, 4)}, {"mrope_interleaved": False}]
)
def test_rotary_axes_matter(decoder):
    pair = qwen3_vl()
    inputs = qwen_inputs(pair, TWO_ROWS)
    config = dataclasses.replace(pair.model.config, decoder=dataclasses.replace(pair.model.config.decoder, **decoder))
    wrong = our_logits(pair, inputs, model=dataclasses.replace(pair.model, config=config))
    assert gap(wrong, their_logits(pair, inputs), inputs["attention_mask"]) > 100 * TOLERANCE


def test_one_shifted_position_matters():
    protocol.check_shift_matters(qwen3_vl(), qwen_inputs(qwen3_vl(), TWO_ROWS))


def test_views_are_what_the_hub_would_see():
    """``encode_images`` of uint8 views against the hub's image processor, at a size that it leaves as it is."""
    pair, views = qwen3_vl(), np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, min_pixels=64, max_pixels=4096, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    inputs = processor([Image.fromarray(view) for view in views], return_tensors="np")
    assert inputs["image_grid_thw"].tolist() == [[1, 6, 10]] * 2
    protocol.check_views(pair, dict(inputs), views)


def test_rollout_and_update():
    pair = qwen3_vl(text={"vocab_size": tiny.VOCAB})
    protocol.check_rollout_and_update(pair.model.with_image_size(16, 16), pair.params)


def test_image_size_must_fit():
    with pytest.raises(ValueError, match="multiples of patch x merge = 8"):
        qwen3_vl().model.with_image_size(24, 30)


def test_model_is_a_static_argument():
    one, other = qwen3_vl().model, qwen3_vl().model.with_image_size(8, 8)
    assert hash(one) == hash(dataclasses.replace(one, source=None)) and one != other
    assert jax.jit(lambda model: model.tokens_per_image, static_argnums=0)(other) == 1
