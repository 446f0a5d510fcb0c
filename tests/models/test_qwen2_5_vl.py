"""Qwen2.5-VL without transformers' models: windows, configurations of published folders, names on disk."""

from __future__ import annotations

import collections
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from transformers import AutoConfig

from medvista_jax.models.names import flatten, shape_on_disk
from medvista_jax.models.qwen2_5_vl import Qwen25VL
from medvista_jax.models.qwen2_5_vl.modeling import window_order
from medvista_jax.models.qwen2_5_vl.params import RULES, config_from_hub, entries
from tests.parity.published import CONFIGS

SEVEN, THREE = CONFIGS["Qwen2.5-VL-7B"], CONFIGS["Qwen2.5-VL-3B"]


def read(folder, settings):
    (folder / "config.json").write_text(json.dumps(settings))
    return config_from_hub(AutoConfig.from_pretrained(folder))


def small(folder, tied=False, **vision):
    """A model of few parameters, in the flat layout."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    sizes |= {"num_key_value_heads": 1, "vocab_size": 32, "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}
    tower = {"depth": 2, "hidden_size": 8, "intermediate_size": 12, "num_heads": 1, "patch_size": 2}
    tower |= {"out_hidden_size": 16, "window_size": 8, "fullatt_block_indexes": [1]}
    tower = SEVEN["vision_config"] | tower | vision
    return read(folder, SEVEN | sizes | {"tie_word_embeddings": tied, "vision_config": tower})


@pytest.mark.parametrize("side", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("height,width", [(1, 1), (4, 4), (5, 7), (3, 8), (9, 2)])
def test_windows_hold_the_cells_that_lie_together(height, width, side):
    order, windows = window_order(height, width, side)
    assert sorted(order.tolist()) == list(range(height * width))
    assert len(windows) <= 4
    found, start = set(), 0
    for count, size in windows:
        for _ in range(count):
            found.add(tuple(order[start : start + size].tolist()))
            start += size
    expected = collections.defaultdict(list)
    for cell in range(height * width):
        expected[cell // width // side, cell % width // side].append(cell)
    assert start == height * width and found == {tuple(cells) for cells in expected.values()}


def test_a_window_layer_sees_its_window_only(tmp_path):
    """A changed pixel moves the embeddings of its own window, and no other where no layer is full."""
    config = small(tmp_path, fullatt_block_indexes=[])
    model = Qwen25VL(config, (12, 20))  # 3 x 5 embeddings in windows of 2 x 2: partial to the right and below
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), model.abstract_params())
    views = rng.integers(0, 256, (1, 12, 20, 1)).astype(np.uint8)
    run = jax.jit(model.encode_images)
    before = np.asarray(run(params, jnp.asarray(views)))[0]
    for row, column in ((0, 0), (0, 4), (2, 1), (2, 4)):
        moved = views.copy()
        moved[0, 4 * row : 4 * row + 2, 4 * column : 4 * column + 2] ^= 255
        gap = np.abs(np.asarray(run(params, jnp.asarray(moved)))[0] - before).max(-1).reshape(3, 5)
        together = (np.arange(3) // 2 == row // 2)[:, None] & (np.arange(5) // 2 == column // 2)[None, :]
        np.testing.assert_array_equal(gap > 1e-7, together)


@pytest.mark.parametrize("full,growth", [([], 4.0), ([0, 1], 12.0)], ids=["windows", "full"])
def test_cost_of_windows_is_linear(tmp_path, full, growth):
    """Four times the patches cost four times the operations; towards sixteen times where every layer is full."""
    config = small(tmp_path, fullatt_block_indexes=full)

    def operations(side):
        model = Qwen25VL(config, (side, side))
        views = jax.ShapeDtypeStruct((1, side, side, 1), jnp.uint8)
        return jax.jit(model.encode_images).lower(model.abstract_params(), views).cost_analysis()["flops"]

    found = operations(256) / operations(128)
    assert found == pytest.approx(growth, rel=0.01) if not full else found > growth


@pytest.mark.parametrize("settings,parameters", [(SEVEN, 8_292_166_656), (THREE, 3_754_622_976)], ids=["7B", "3B"])
def test_published_folders(tmp_path, settings, parameters):
    """Sizes, and the number of parameters that the index of the published shards counts."""
    config = read(tmp_path, settings)
    vision, decoder = settings["vision_config"], config.decoder
    assert (decoder.width, decoder.head_dim, decoder.heads) == (settings["hidden_size"], 128, decoder.width // 128)
    assert (decoder.mrope_section, decoder.mrope_interleaved, decoder.rope_theta) == ((16, 24, 24), False, 1e6)
    assert (decoder.qkv_bias, decoder.output_bias, decoder.tied) == (True, False, settings["tie_word_embeddings"])
    assert (config.vision.width, config.vision.out_width) == (1280, vision["out_hidden_size"])
    assert (config.vision.window_side, config.vision.full_attention) == (4, (7, 15, 23, 31))
    model = Qwen25VL(config, (448, 644))
    assert model.tokens_per_image == 16 * 23
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.abstract_params())) == parameters


def test_flat_and_nested_layouts_agree(tmp_path):
    flat = small(tmp_path, tied=True)
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    nested = json.loads((tmp_path / "config.json").read_text())
    assert "hidden_size" not in nested and nested["text_config"]["hidden_size"] == 16
    assert read(tmp_path, nested) == flat and flat.decoder.tied


@pytest.mark.parametrize("tied", [False, True])
def test_every_leaf_has_one_name(tmp_path, tied):
    config = small(tmp_path, tied)
    leaves, table = flatten(Qwen25VL(config).abstract_params()), entries(config)
    assert sorted(entry.path for entry in table) == sorted(leaves)
    shapes = {entry.hub: shape_on_disk(entry, leaves[entry.path].shape) for entry in table}
    names = [*shapes, *(alias for entry in table for alias in entry.aliases)]
    assert len(names) == len(set(names))
    assert shapes["visual.patch_embed.proj.weight"] == (8, 3, 2, 2, 2)
    assert shapes["visual.blocks.1.attn.qkv.weight"] == (24, 8) and shapes["visual.blocks.0.mlp.up_proj.bias"] == (12,)
    assert shapes["visual.merger.ln_q.weight"] == (8,) and shapes["visual.merger.mlp.2.weight"] == (16, 32)
    assert shapes["model.layers.0.self_attn.k_proj.bias"] == (8,) and shapes["model.embed_tokens.weight"] == (32, 16)
    assert shapes.get("lm_head.weight") == (None if tied else (32, 16))


def test_names_in_memory_are_aliases(tmp_path):
    """Some tools save ``model.visual.…`` and ``model.language_model.…``, as transformers calls them in memory."""
    for entry in entries(small(tmp_path)):
        if entry.hub.startswith("visual."):
            assert entry.aliases == ("model." + entry.hub,)
        elif entry.hub.startswith("model."):
            assert entry.aliases == (entry.hub.replace("model.", "model.language_model.", 1),)
        else:
            assert (entry.hub, entry.aliases) == ("lm_head.weight", ())


def test_rules_name_every_matrix(tmp_path):
    """Every kernel is split over both axes, and no rule asks for more axes than its leaf has."""
    for path, leaf in flatten(Qwen25VL(small(tmp_path)).abstract_params()).items():
        found = [where for pattern, where in RULES if re.search(pattern, path)]
        places = [spec for where in found for spec in ((where,) if isinstance(where, PartitionSpec) else where)]
        assert all(len(spec) <= len(leaf.shape) for spec in places)
        if len(leaf.shape) == 2:
            assert places and set(places[0]) == {"fsdp", "tensor"}, path


def test_what_is_not_ported_is_refused(tmp_path):
    with pytest.raises(ValueError, match="window_size 3 of the vision tower is smaller than one merged block of 28"):
        read(tmp_path, SEVEN | {"vision_config": SEVEN["vision_config"] | {"window_size": 3}})
    with pytest.raises(ValueError, match=r"mrope_section \[16, 24, 16\] must be three numbers that sum to 64"):
        read(tmp_path, SEVEN | {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 16]}})
    with pytest.raises(ValueError, match="hidden_act 'mish' of the vision tower"):
        read(tmp_path, SEVEN | {"vision_config": SEVEN["vision_config"] | {"hidden_act": "mish"}})
    with pytest.raises(ValueError, match="use_sliding_window"):
        read(tmp_path, SEVEN | {"use_sliding_window": True})
    with pytest.raises(ValueError, match="rotary scaling 'yarn'"):
        read(tmp_path, SEVEN | {"rope_scaling": {"type": "yarn", "factor": 4.0, "mrope_section": [16, 24, 24]}})


def test_image_size_must_fit(tmp_path):
    with pytest.raises(ValueError, match=r"multiples of patch x merge = 28 pixels; the nearest is \(252, 252\)"):
        Qwen25VL(read(tmp_path, THREE), (256, 256))
    assert Qwen25VL(read(tmp_path, THREE)).image_size == (252, 252)
