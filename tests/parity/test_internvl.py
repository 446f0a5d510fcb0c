"""InternVL3 against transformers: tiles and thumbnails, towers of every kind, greedy continuations, what matters."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file

from medvista_jax import models
from medvista_jax.models.inputs import BadInputs, hub_logits
from medvista_jax.models.internvl import modeling, params
from medvista_jax.models.names import flatten, nest, to_hub, to_leaf
from medvista_jax.models.vit import resample_positions
from medvista_jax.rollout.generate import greedy
from tests import tiny
from tests.parity import families, protocol
from tests.parity.families import internvl, internvl_inputs
from tests.parity.published import CONFIGS
from tests.parity.reference import TOLERANCE, changed, gap, our_batch, our_logits, their_logits

TWO_ROWS = ([5, (20, 60), 3, (16, 16), 4], [2, (37, 16), 7])
"""Four tiles with the thumbnail, one alone, three; two rows of different lengths."""
INPUTS = {
    "text only": ([11],),
    "one tile": ([3, (16, 16), 5],),
    "wide": ([3, (12, 70), 5],),
    "tall": ([3, (90, 31), 5],),
    "2 x 3 tiles": ([3, (40, 60), 5],),
    "several images": ([3, (16, 30), 2, (9, 9), 1, (64, 32), 4],),
    "image first and last": ([(16, 32), 3, (32, 16)],),
    "rows padded right": TWO_ROWS,
    "rows of text": ([9], [4], [6]),
}


@pytest.mark.parametrize("rows", INPUTS.values(), ids=INPUTS)
def test_logits(rows):
    protocol.check_logits(internvl(), internvl_inputs(internvl(), rows))


def test_tiles_and_thumbnails_are_there():
    """The inputs above hold what they are meant to hold."""
    inputs = internvl_inputs(internvl(), TWO_ROWS)
    assert inputs["pixel_values"].shape == (3 + 1 + 1 + 2 + 1, 3, 16, 16)
    assert (inputs["input_ids"] == families.IMAGE).sum(axis=1).tolist() == [4 * 5, 4 * 3]
    assert len(internvl_inputs(internvl(), INPUTS["2 x 3 tiles"])["pixel_values"]) == 7


@pytest.mark.parametrize("left", [True, (True, False), (False, True)])
def test_padding_on_either_side(left):
    protocol.check_logits(internvl(), internvl_inputs(internvl(), TWO_ROWS, left))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_grouped_queries_and_tied_heads(kv_heads, tied):
    pair = internvl(text={"num_key_value_heads": kv_heads}, tied=tied)
    assert ("head" in pair.params["decoder"]) is not tied
    protocol.check_logits(pair, internvl_inputs(pair, TWO_ROWS))


OTHER_SHAPES = {
    "query and key norms": {"vision": {"use_qk_norm": True}},
    "rms_norm": {"vision": {"norm_type": "rms_norm"}},
    "biases": {"vision": {"attention_bias": True}},
    "biases and norms": {"vision": {"attention_bias": True, "use_qk_norm": True, "norm_type": "rms_norm"}},
    "other epsilon and activations": {
        "vision": {"layer_norm_eps": 1e-2, "hidden_act": "quick_gelu"},
        "top": {"projector_hidden_act": "silu"},
    },
    "final norm": {"vision": {"use_mean_pooling": False}},
    "final norm, unseen from before": {"vision": {"use_mean_pooling": False}, "top": {"vision_feature_layer": 3}},
    "the layer before the last": {"vision": {"use_mean_pooling": False}, "top": {"vision_feature_layer": -2}},
    "no layer at all": {"top": {"vision_feature_layer": -4}},
    "mask token": {"vision": {"use_mask_token": True}},
    "no positions": {"vision": {"use_absolute_position_embeddings": False}},
    "oblong patches": {"vision": {"image_size": [16, 32], "patch_size": [4, 8]}},
    "oblong patches of a square": {"vision": {"patch_size": [2, 8]}},
    "oblong tiles": {"vision": {"image_size": [8, 32]}},
    "CLS kept": {
        "vision": {"image_size": 60, "patch_size": [12, 20]},
        "top": {"vision_feature_select_strategy": "full"},
    },
    "merge of 1": {"top": {"downsample_ratio": 1.0}},
    "merge of 4": {"top": {"downsample_ratio": 0.25}},
    "Qwen3": {"text": {"model_type": "qwen3", "head_dim": 16}},
    "Qwen3 with biases": {"text": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True}},
    "Llama": {"text": {"model_type": "llama", "rms_norm_eps": 1e-2}},
    "Llama with biases": {"text": {"model_type": "llama", "attention_bias": True}},
    "plain rotary": {"text": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}},
}


@pytest.mark.parametrize("settings", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_other_configurations(settings):
    pair = internvl(**settings)
    height, width = pair.model.image_size
    rows = ([5, (height, 2 * width), 3], [2, (9, 9), 4, (2 * height, width)])
    protocol.check_logits(pair, internvl_inputs(pair, rows, most=2))


@pytest.mark.parametrize("tile", [(24, 24), (8, 8), (19, 18), (8, 32)])
def test_tiles_of_other_sizes(tile):
    """Positions are resampled, and pixels beyond the last whole patch left out."""
    protocol.check_logits(internvl(), internvl_inputs(internvl(), TWO_ROWS, tile=tile, most=2))


def test_tiles_are_encoded_some_at_a_time(monkeypatch):
    pair = internvl()
    inputs = internvl_inputs(pair, TWO_ROWS)
    monkeypatch.setattr(modeling, "TILES_AT_ONCE", 3)  # of 8
    protocol.check_logits(pair, inputs)


def test_means_far_from_zero():
    """LayerNorm's variance does not cancel where a checkpoint's activations stand far from 0."""
    pair, pixels = internvl(), np.zeros((1, 3, 16, 16), np.float32)
    theirs = copy.deepcopy(pair.theirs.model)
    theirs.vision_tower.embeddings.position_embeddings.data.add_(100.0)
    with torch.no_grad():
        expected = theirs.get_image_features(torch.tensor(pixels)).pooler_output.numpy()
    ours = changed(pair.params, "vision/position", lambda leaf: leaf + 100.0)
    got = np.asarray(pair.model.encode_tiles(ours, jnp.asarray(pixels)))
    np.testing.assert_allclose(got, expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("left", [False, (True, False)])
def test_cached_decode_at_every_step(left):
    protocol.check_cached_decode(internvl(), internvl_inputs(internvl(), TWO_ROWS, left))


@pytest.mark.parametrize("rows", [([3, (16, 40), 5],), TWO_ROWS], ids=["one row", "two rows"])
def test_greedy_continuation(rows):
    protocol.check_greedy(internvl(), internvl_inputs(internvl(), rows, left=True))


def test_gradients():
    protocol.check_gradients(internvl(), internvl_inputs(internvl(), TWO_ROWS))


def test_bfloat16():
    protocol.check_bfloat16(internvl(), internvl_inputs(internvl(), TWO_ROWS))


@pytest.mark.parametrize("part", ["connector", "query and key norms"])
def test_epsilons_that_no_configuration_holds(part):
    """Values so small that the epsilons of those norms decide."""
    pair = internvl(vision={"use_qk_norm": True})
    theirs, ours, small = copy.deepcopy(pair.theirs.model), pair.params, 2e-3
    pixels = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    for name, parameter in theirs.named_parameters():
        q_or_k = re.search(r"[qk]_proj.weight$", name) and part != "connector"
        if q_or_k or (part == "connector" and re.search(r"lambda|cls_token|position_emb|projection\.", name)):
            parameter.data.mul_(small)
    paths = [f"vision/layer_{i}/{x}" for i in range(3) for x in ("q/kernel", "k/kernel")]
    if part == "connector":
        paths = ["vision/cls", "vision/position", "vision/patch"]
        paths += [f"vision/layer_{i}/lambda_{n}" for i in range(3) for n in (1, 2)]
    for path in paths:
        ours = changed(ours, path, lambda leaf: leaf * small)
    with torch.no_grad():
        expected = theirs.get_image_features(torch.tensor(pixels)).pooler_output.numpy()
    got = np.asarray(pair.model.encode_tiles(ours, jnp.asarray(pixels)))
    np.testing.assert_allclose(got, expected, atol=TOLERANCE * np.abs(expected).max())


MATTERS = [
    "vision/cls",  # dropped before the pixel shuffle, but seen by all patches
    "vision/position",
    "vision/layer_0/lambda_1",
    "vision/layer_2/lambda_2",
    "connector/norm/bias",
    "connector/up/bias",
]


@pytest.mark.parametrize("path", MATTERS)
def test_what_must_matter(path):
    pair = internvl()
    inputs = internvl_inputs(pair, TWO_ROWS)
    without = our_logits(pair, inputs, changed(pair.params, path, jnp.zeros_like))
    assert gap(without, their_logits(pair, inputs), inputs["attention_mask"]) > 100 * TOLERANCE


def zeros(image_LE):
    return image_LE.at[12:].set(0.0)


def first_tile_again(image_LE):
    return image_LE.at[12:].set(image_LE[:4])


def tiles_swapped(image_LE):
    return jnp.concatenate([image_LE[4:8], image_LE[:4], image_LE[8:]])


@pytest.mark.parametrize("change", [zeros, first_tile_again, tiles_swapped])
def test_thumbnail_and_order_of_tiles_matter(change):
    pair = internvl()
    inputs = internvl_inputs(pair, ([5, (20, 60), 4],))  # three tiles and the thumbnail, 4 embeddings each
    batch = our_batch(pair, inputs)
    assert batch.features.shape[:3] == (1, 1, 16)
    other = batch._replace(features=change(batch.features[0, 0])[None, None])
    moved = np.asarray(hub_logits(pair.model, pair.params, other))
    assert gap(moved, their_logits(pair, inputs), inputs["attention_mask"]) > 100 * TOLERANCE


def test_one_shifted_position_matters():
    protocol.check_shift_matters(internvl(), internvl_inputs(internvl(), TWO_ROWS))


@pytest.mark.parametrize("tile", [(16, 16), (16, 32)])
def test_views_are_what_the_hub_would_see(tile):
    """``encode_images`` of uint8 views against the hub's image processor, at a size that it leaves as it is."""
    pair = internvl(vision={"image_size": tile, "patch_size": [4, tile[1] // 4]})
    views = np.random.default_rng(0).integers(0, 256, (3, *tile, 3), dtype=np.uint8)
    processor = transformers.GotOcr2ImageProcessorPil(
        size={"height": tile[0], "width": tile[1]}, crop_to_patches=False, **families.IMAGENET
    )
    inputs = processor([Image.fromarray(view) for view in views], return_tensors="np")
    assert inputs["pixel_values"].shape == (3, 3, *tile)
    protocol.check_views(pair, dict(inputs), views)


def test_rollout_and_update():
    pair = internvl(text={"vocab_size": tiny.VOCAB})
    protocol.check_rollout_and_update(pair.model, pair.params)


FLAGS = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize(("top", "text"), FLAGS)
def test_the_top_flag_says_what_is_tied(top, text):
    """transformers writes a text configuration whose flag may say the opposite; what it writes to disk counts."""
    pair = internvl(text={"tie_word_embeddings": text}, tied=top)
    on_disk = load_file(pair.folder / "model.safetensors")
    assert ("language_model.lm_head.weight" in on_disk) is not top
    config = transformers.AutoConfig.from_pretrained(pair.folder)
    assert config.text_config.tie_word_embeddings is text
    assert params.config_from_hub(config).decoder.tied is top


@pytest.mark.parametrize("tied", [False, True])
def test_names_in_both_directions(tied):
    """Every tensor on disk has one leaf, every leaf a tensor, and what we write is what we read, to the bit."""
    kinds = {"use_mask_token": True, "use_mean_pooling": False, "use_qk_norm": True, "attention_bias": True}
    pair = internvl(vision=kinds, tied=tied)
    on_disk, leaves = load_file(pair.folder / "model.safetensors"), flatten(pair.params)
    table = params.entries(pair.model.config)
    assert sorted(entry.hub for entry in table) == sorted(on_disk)
    assert {k: v.shape for k, v in flatten(pair.model.abstract_params()).items()} == {
        k: v.shape for k, v in leaves.items()
    }
    for entry in table:
        np.testing.assert_array_equal(to_hub(entry, np.asarray(leaves[entry.path])), on_disk[entry.hub])


@pytest.mark.parametrize("tied", [False, True])
def test_saved_folder_opens_in_transformers(tied, tmp_path):
    """Loaded, changed and saved; transformers computes what we do."""
    pair = internvl(tied=tied)
    model, leaves = models.load(pair.folder)
    assert model == pair.model and tiny.same_bits(leaves, pair.params)
    leaves = jax.tree.map(lambda leaf: leaf * 1.25, leaves)
    models.save(model, leaves, tmp_path / "out")
    theirs = transformers.InternVLForConditionalGeneration.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    )
    changed_pair = dataclasses.replace(pair, theirs=theirs.eval(), params=leaves)
    protocol.check_logits(changed_pair, internvl_inputs(pair, TWO_ROWS))


def test_names_in_memory_are_aliases():
    """A checkpoint with the names that transformers uses in memory is the same checkpoint."""
    pair = internvl()
    in_memory = {name: value.detach().numpy() for name, value in pair.theirs.named_parameters()}
    leaves = {}
    for entry in params.entries(pair.model.config):
        (name,) = [alias for alias in entry.aliases if alias in in_memory]
        leaves[entry.path] = to_leaf(entry, in_memory.pop(name))
    assert not in_memory and tiny.same_bits(nest(leaves), pair.params)


def test_positions_are_resampled_as_torch_does_it():
    """Bigger, smaller, one more, oblong: within float32 rounding of torch's bicubic interpolation."""
    table = np.random.default_rng(0).normal(size=(1, 1 + 36, 5)).astype(np.float32)
    square = torch.tensor(table[:, 1:]).reshape(1, 6, 6, 5).permute(0, 3, 1, 2)
    for size in [(9, 9), (3, 3), (7, 7), (5, 14), (6, 6), (1, 1)]:
        theirs = torch.nn.functional.interpolate(square, size=size, mode="bicubic", align_corners=False)
        ours = np.asarray(resample_positions(jnp.asarray(table), *size))
        np.testing.assert_array_equal(ours[:, 0], table[:, 0])
        np.testing.assert_allclose(ours[0, 1:], theirs[0].permute(1, 2, 0).reshape(-1, 5).numpy(), atol=3e-6)


BAD_SETTINGS = {
    "vision_config.hidden_act 'mish'": {"vision": {"hidden_act": "mish"}},
    "projector_hidden_act 'mish'": {"top": {"projector_hidden_act": "mish"}},
    "text_config.model_type 'gpt2'": {"text": {"model_type": "gpt2"}},
    "num_channels 4 is not supported": {"vision": {"num_channels": 4}},
    "norm_type 'batch_norm'": {"vision": {"norm_type": "batch_norm"}},
    "vision_feature_layer 4 is not supported; known: -4…3": {"top": {"vision_feature_layer": 4}},
    r"vision_feature_layer \[-1, -2\] is not supported": {"top": {"vision_feature_layer": [-1, -2]}},
    "vision_feature_select_strategy 'cls'": {"top": {"vision_feature_select_strategy": "cls"}},
    "downsample_ratio 0.3 is not 1 over": {"top": {"downsample_ratio": 0.3}},
    "downsample_ratio 2.0 is not 1 over": {"top": {"downsample_ratio": 2.0}},
    "16 x 24 pixels gives 4 x 6 patches": {"vision": {"image_size": [16, 24]}},
}


@pytest.mark.parametrize(("message", "settings"), BAD_SETTINGS.items(), ids=BAD_SETTINGS)
def test_settings_that_are_not_ported(message, settings):
    text, vision = (families.INTERNVL_TEXT, families.INTERNVL_VISION)
    config = transformers.InternVLConfig(
        text_config=text | settings.get("text", {}),
        vision_config=vision | settings.get("vision", {}),
        **families.INTERNVL_SPECIAL | settings.get("top", {}),
    )
    with pytest.raises(ValueError, match=message):
        params.config_from_hub(config)


def test_single_sizes_are_squares():
    """Configurations built by hand may hold one number instead of two."""
    vision = vars(transformers.InternVLVisionConfig(**families.INTERNVL_VISION)) | {"image_size": 16, "patch_size": 4}
    text = transformers.Qwen2Config(**families.INTERNVL_TEXT)
    top = vars(transformers.InternVLConfig(**families.INTERNVL_SPECIAL))
    config = SimpleNamespace(**top | {"vision_config": SimpleNamespace(**vision), "text_config": text})
    assert params.config_from_hub(config).vision.grid(16, 16) == (4, 4)


def test_dynamic_frequencies_end_where_the_hubs_change():
    """Equal up to ``max_position_embeddings``; one token more is refused, since transformers then turns otherwise."""
    pair = internvl(text={"max_position_embeddings": 24})
    protocol.check_logits(pair, internvl_inputs(pair, ([24],)))
    longer = internvl_inputs(pair, ([25],))
    with pytest.raises(BadInputs, match="25 slots is longer than max_position_embeddings = 24"):
        our_logits(pair, longer)
    with pytest.raises(ValueError, match="25 slots"):
        greedy(pair.model, pair.params, our_batch(pair, internvl_inputs(pair, ([20],))), 5)
    free = dataclasses.replace(pair.model.config.decoder, max_positions=None)
    model = dataclasses.replace(pair.model, config=dataclasses.replace(pair.model.config, decoder=free))
    wrong = our_logits(pair, longer, model=model)
    assert gap(wrong, their_logits(pair, longer), longer["attention_mask"]) > 10 * TOLERANCE


def test_tiles_must_fit():
    with pytest.raises(ValueError, match="24 x 30 pixels gives 6 x 7 patches .* square of a multiple of 2"):
        internvl().model.with_image_size(24, 30)
    with pytest.raises(ValueError, match="4 x 0 patches"):
        internvl().model.with_image_size(16, 3)
    oblong = dataclasses.replace(internvl().model.config.vision, image_size=(16, 24))
    config = dataclasses.replace(internvl().model.config, vision=oblong)
    with pytest.raises(ValueError, match="24 learned positions .* cannot be resampled"):
        modeling.InternVL(config, (16, 16))
    for shape in [(2, 48), (2, 1, 16, 16), (0, 3, 16, 16)]:
        with pytest.raises(ValueError, match=r"must be \[tiles, 3, h, w\] .*, not \(" + str(shape)[1:-1]):
            internvl().model.encode_inputs(internvl().params, np.zeros(shape, np.float32))


def test_published_tiles_cost_256_embeddings(tmp_path):
    """And the configuration's rotary settings of older layouts are read."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["InternVL3-8B"]))
    config = params.config_from_hub(transformers.AutoConfig.from_pretrained(tmp_path))
    assert modeling.InternVL(config).image_size == (448, 448) and modeling.InternVL(config).tokens_per_image == 256
    assert config.decoder.rope_theta == 1e6 and config.decoder.qkv_bias and not config.decoder.output_bias


def test_model_is_a_static_argument():
    one, other = internvl().model, internvl().model.with_image_size(8, 8)
    assert hash(one) == hash(dataclasses.replace(one, source=None)) and one != other
    assert jax.jit(lambda model: model.tokens_per_image, static_argnums=0)(other) == 1
