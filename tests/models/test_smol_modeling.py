"""The packaged model's port against torch: DINOv2 on every kind of grid, connector, Llama, gradients."""

from __future__ import annotations

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from medvista_jax import models
from medvista_jax.models.inputs import hub_batch, hub_logits
from medvista_jax.models.medvista_smol import MedVistaSmol
from medvista_jax.models.medvista_smol.modeling import bicubic
from medvista_jax.models.medvista_smol.params import RULES, config_from_hub, entries
from medvista_jax.models.names import nest, to_leaf

IMAGE = 5
PATCH, MERGE = 4, 2
TEXT = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
    "tie_word_embeddings": True,
}
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 3,
    "image_size": 5 * PATCH,  # a table of 5 × 5, which no bucket has
    "patch_size": PATCH,
    "layer_norm_eps": 1e-5,
    "use_mask_token": False,
}
HUB = {
    "merge_size": MERGE,
    "projector_hidden_size": 20,
    "projector_hidden_act": "gelu",
    "image_token_id": IMAGE,
    "text_config": TEXT | {"model_type": "llama", "hidden_act": "silu"},
    "vision_config": VISION | {"model_type": "dinov2", "hidden_act": "gelu", "num_channels": 3, "qkv_bias": True},
}
CONFIG = config_from_hub(HUB | {"view_size": [16, 24]})
MODEL = MedVistaSmol(CONFIG)


class Reference(torch.nn.Module):
    """The model in torch out of transformers' parts, the connector written here."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = Dinov2Model(Dinov2Config(**VISION))
        self.language_model = LlamaForCausalLM(LlamaConfig(**TEXT))
        self.multi_modal_projector = torch.nn.ModuleDict(
            {"linear_1": torch.nn.Linear(MERGE**2 * 16, 20), "linear_2": torch.nn.Linear(20, 24)}
        )
        generator = torch.Generator().manual_seed(0)
        for name, value in self.named_parameters():
            spread = 0.5 if value.ndim < 2 or "embed" in name else 2.0 * value[0].numel() ** -0.5
            noise = spread * torch.randn(value.shape, generator=generator)
            value.data = noise + (value.ndim < 2 and ("norm" in name or "lambda" in name) and "bias" not in name)
        self.eval()

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings ``[n, L, E]`` of images of one size."""
        patches = self.vision_tower(pixels).last_hidden_state[:, 1:]
        rows, columns = (side // PATCH for side in pixels.shape[2:])
        squares = patches.reshape(-1, rows, columns, 16).unfold(1, 2, 2).unfold(2, 2, 2)  # n, y, x, E, dy, dx
        x = squares.permute(0, 1, 2, 4, 5, 3).reshape(len(pixels), -1, MERGE**2 * 16)
        parts = self.multi_modal_projector
        return parts["linear_2"](torch.nn.functional.gelu(parts["linear_1"](x)))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        x = self.language_model.get_input_embeddings()(ids)
        if pixels is not None:
            x = x.masked_scatter((ids == IMAGE)[..., None], self.images(pixels))
        places = (mask.cumsum(1) - 1).clamp(min=0)
        return self.language_model(inputs_embeds=x, attention_mask=mask, position_ids=places).logits


def on_disk(name: str) -> str:
    """Our reference's names in memory as transformers writes them."""
    for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        if "vision_tower" in name:
            name = name.replace(f"attention.{ours}", f"attention.attention.{theirs}")
    return name.replace("attention.o_proj", "attention.output.dense") if "vision_tower" in name else name


@functools.cache
def reference() -> Reference:
    return Reference()


@functools.cache
def tensors() -> dict[str, np.ndarray]:
    named = reference().named_parameters()
    return {on_disk(name): value.detach().numpy() for name, value in named if "lm_head" not in name}


@functools.cache
def params():
    return nest((entry.path, jnp.asarray(to_leaf(entry, tensors()[entry.hub]))) for entry in entries(CONFIG))


def close(ours, theirs, tolerance: float = 1e-4) -> None:
    """Within ``tolerance`` of the reference's scale."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=tolerance * np.abs(theirs).max(), rtol=0)


def pixels(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, height, width)).astype(np.float32)


def test_names_are_those_on_disk_and_cover_every_leaf(tmp_path):
    reference().vision_tower.save_pretrained(tmp_path / "vision")
    reference().language_model.save_pretrained(tmp_path / "text")
    written = {}
    for folder, prefix in (("vision", "vision_tower."), ("text", "language_model.")):
        with safe_open(tmp_path / folder / "model.safetensors", "np") as file:
            written |= {prefix + name: file.get_slice(name).get_shape() for name in file.keys()}
    ours = {entry.hub for entry in entries(CONFIG)}
    assert {name for name in ours if not name.startswith("multi_modal")} == set(written)
    leaves = flatten_dict(MODEL.abstract_params(), sep="/")
    assert sorted(leaves) == sorted(entry.path for entry in entries(CONFIG))
    for entry in entries(CONFIG):
        assert leaves[entry.path].shape == to_leaf(entry, tensors()[entry.hub]).shape, entry.path
    untied = dataclasses.replace(CONFIG, decoder=dataclasses.replace(CONFIG.decoder, tied=False))
    assert {entry.hub for entry in entries(untied)} - ours == {"language_model.lm_head.weight"}


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (24, 16), (40, 8), (16, 16)])
def test_vision_tower_on_grids_smaller_and_larger_than_its_table(height, width):
    images = pixels(2, height, width)
    with torch.no_grad():
        theirs = reference().vision_tower(torch.tensor(images)).last_hidden_state[:, 1:]
    ours = jax.jit(MODEL.encode_patches)(params(), images.transpose(0, 2, 3, 1))
    assert ours.shape == (2, height // PATCH, width // PATCH, 16)
    close(ours.reshape(theirs.shape), theirs)


@pytest.mark.parametrize(("count", "size"), [(16, 37), (5, 5), (3, 8), (11, 4), (1, 6)])
def test_bicubic_against_torch(count, size):
    table = np.random.default_rng(0).standard_normal((1, 1, size, 1)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(torch.tensor(table), size=(count, 1), mode="bicubic")[0, 0, :, 0]
    np.testing.assert_allclose(bicubic(count, size) @ table[0, 0, :, 0], theirs, atol=2e-6)


def sequence(*images: int, rows: int = 1, padding: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Ids with runs of image tokens of the given lengths, and the mask; row 1 is three tokens shorter."""
    rng = np.random.default_rng(1)
    row = [*rng.integers(6, 50, 3)]
    for run in images:
        row += [IMAGE] * run + [*rng.integers(6, 50, 2)]
    ids, mask = np.tile(np.array(row), (rows, 1)), np.ones((rows, len(row)), int)
    ids[:, -1] = np.arange(rows) + 7
    if padding == "left":
        ids[1:] = np.roll(ids[1:], 1, axis=1)
        ids[1:, 0], mask[1:, 0] = 0, 0
    elif padding == "right":
        ids[1:, -1], mask[1:, -1] = 0, 0
    return ids, mask


CASES = {
    "text": (sequence(), None),
    "one image": (sequence(6), (1, 16, 24)),
    "two images, padded left": (sequence(1, 1, rows=2, padding="left"), (4, 8, 8)),
    "padded right": (sequence(4, rows=2, padding="right"), (2, 16, 16)),
    "another bucket": (sequence(15), (1, 40, 24)),
}


@pytest.mark.parametrize("case", CASES)
def test_logits(case):
    (ids, mask), shape = CASES[case]
    images = None if shape is None else pixels(*shape)
    batch = hub_batch(MODEL, params(), ids, mask, images)
    ours = np.asarray(hub_logits(MODEL, params(), batch))
    with torch.no_grad():
        tensor = None if images is None else torch.tensor(images)
        theirs = reference()(torch.tensor(ids), torch.tensor(mask), tensor).numpy()
    close(ours[mask > 0], theirs[mask > 0])
    assert np.abs(theirs).max() > 1.0


def test_a_view_of_the_gym_is_normalised_like_the_processor():
    """Grey uint8 views: three equal channels, ImageNet's mean and spread."""
    view = np.random.default_rng(0).integers(0, 256, (1, 16, 24, 1)).astype(np.uint8)
    colour = np.repeat(view, 3, axis=-1) / 255.0
    hub = ((colour - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).astype(np.float32).transpose(0, 3, 1, 2)
    features, _ = MODEL.encode_inputs(params(), hub)
    close(jax.jit(MODEL.encode_images)(params(), view).reshape(features.shape), features)


def test_cached_decode_is_the_full_forward():
    (ids, mask), shape = CASES["one image"]
    batch = hub_batch(MODEL, params(), ids, mask, pixels(*shape))
    full = np.asarray(hub_logits(MODEL, params(), batch))
    split = ids.shape[1] - 2
    cache = MODEL.init_cache(1, ids.shape[1])
    forward = jax.jit(MODEL.forward)
    for begin, end in ((0, split), (split, split + 1), (split + 1, split + 2)):
        part = [leaf[:, begin:end] for leaf in (batch.tokens_BT, batch.feature_BT, batch.positions_BTZ, batch.valid_BT)]
        hidden, cache = forward(params(), part[0], part[1], batch.features, part[2], part[3], cache, begin)
        close(MODEL.logits(params(), hidden)[0], full[0, begin:end])


def test_loss_and_gradients():
    (ids, mask), shape = CASES["padded right"]
    images = pixels(*shape)
    labels = np.where((ids == IMAGE) | (mask == 0), -100, ids)

    batch = hub_batch(MODEL, params(), ids, mask, images)

    def loss(p):
        # The features are made inside, so that the connector and the tower have gradients too.
        features = MODEL.connect(p, MODEL.encode_patches(p, jnp.asarray(images).transpose(0, 2, 3, 1)))
        own = features.reshape(2, 1, 4, -1)
        hidden, _ = MODEL.forward(p, batch.tokens_BT, batch.feature_BT, own, batch.positions_BTZ, batch.valid_BT)
        logp = jax.nn.log_softmax(MODEL.logits(p, hidden)[:, :-1])
        want = jnp.asarray(labels[:, 1:])
        picked = jnp.take_along_axis(logp, jnp.maximum(want, 0)[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(want >= 0, picked, 0.0)) / jnp.sum(want >= 0)

    value, gradients = jax.jit(jax.value_and_grad(loss))(params())
    model = reference()
    model.zero_grad()
    logits = model(torch.tensor(ids), torch.tensor(mask), torch.tensor(images))
    theirs = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 50), torch.tensor(labels[:, 1:]).reshape(-1))
    theirs.backward()
    assert float(value) == pytest.approx(theirs.item(), rel=1e-4)
    grads = {on_disk(name): value.grad.numpy() for name, value in model.named_parameters()}
    flat = flatten_dict(gradients, sep="/")
    for entry in entries(CONFIG):
        if "key.bias" not in entry.hub:  # zero but for rounding: softmax does not see what shifts all scores alike
            close(flat[entry.path], to_leaf(entry, grads[entry.hub]), 1e-3)
    norms = [np.sqrt(sum(float((g**2).sum()) for g in tree.values())) for tree in (flat, grads)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_bfloat16_parameters_give_bfloat16_features():
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params())
    features = jax.jit(MODEL.encode_images)(small, np.zeros((1, 16, 24, 1), np.uint8))
    assert features.dtype == jnp.bfloat16


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"multiples of patch x merge = 8 pixels; the nearest is \(16, 32\)"):
        MedVistaSmol(CONFIG, (16, 30))
    with pytest.raises(ValueError, match=r"\[images, 3, h, w\], h and w multiples of 8, not \(1, 3, 16, 12\)"):
        MODEL.encode_inputs(params(), pixels(1, 16, 12))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"merge_size": None}, "no 'merge_size'"),
        ({"projector_hidden_act": "mish"}, "'mish' is not supported"),
        ({"vision_config": HUB["vision_config"] | {"use_swiglu_ffn": True}}, "use_swiglu_ffn"),
        ({"text_config": {k: v for k, v in HUB["text_config"].items() if k != "vocab_size"}}, "no 'vocab_size'"),
    ],
)
def test_configurations_that_are_not_ported_are_refused(change, told):
    config = {key: value for key, value in (HUB | change).items() if value is not None}
    with pytest.raises(ValueError, match=told):
        config_from_hub(config)


def test_a_folder_there_and_back(tmp_path):
    """``models.load`` of a folder written by hand, ``models.save``, and the same bytes again."""
    (tmp_path / "hub").mkdir()
    config = HUB | {"model_type": "medvista_smol", "architectures": ["MedVistaSmolForConditionalGeneration"]}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config | {"view_size": [16, 24]}))
    save_file(tensors(), tmp_path / "hub" / "model.safetensors")
    model, loaded = models.load(tmp_path / "hub")
    assert model == MODEL and model.image_size == (16, 24)
    assert models.load(tmp_path / "hub", image_size=(8, 8))[0].tokens_per_image == 1
    same = jax.tree.map(lambda a, b: bool((a == b).all()), loaded, params())
    assert all(jax.tree.leaves(same))
    models.save(model, loaded, tmp_path / "again")
    written = load_file(tmp_path / "again" / "model.safetensors")
    assert set(written) == set(tensors()) and all((written[name] == value).all() for name, value in tensors().items())
    assert json.loads((tmp_path / "again" / "config.json").read_text())["view_size"] == [16, 24]


def test_every_matrix_has_a_rule():
    for path, leaf in flatten_dict(MODEL.abstract_params(), sep="/").items():
        if leaf.ndim == 2:
            assert any(re.search(pattern, path) for pattern, _ in RULES), path
