"""The models whose adapters are tested, small enough to compile in seconds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Params
from medvista_jax.models.blocks import DecoderConfig
from medvista_jax.models.lora import LoRAConfig, init_lora, with_lora
from medvista_jax.models.medvista_smol.modeling import MedVistaSmol, MedVistaSmolConfig
from medvista_jax.models.medvista_smol.modeling import VisionConfig as SmolVisionConfig
from medvista_jax.models.names import flatten, nest
from medvista_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from medvista_jax.models.qwen3_vl.modeling import VisionConfig
from tests import tiny

QWEN = Qwen3VL(
    Qwen3VLConfig(
        VisionConfig(16, layers=2, heads=2, feed_forward=24, out_width=32, patch=4, grid=5, deepstack=(0,)),
        DecoderConfig(
            tiny.VOCAB,
            width=32,
            layers=2,
            heads=4,
            kv_heads=2,
            head_dim=8,
            feed_forward=48,
            qk_norm=True,
            mrope_section=(2, 1, 1),
            mrope_interleaved=True,
            embedding_scale=1.0,
        ),
        image_token=tiny.VOCAB - 1,
    ),
    image_size=(16, 16),
)
"""Four embeddings an image of 16 × 16, as ``tiny.MODEL`` has them: the environment of tests/tiny.py serves both."""

SMOL = MedVistaSmol(
    MedVistaSmolConfig(
        DecoderConfig(tiny.VOCAB, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, feed_forward=48),
        image_token=tiny.VOCAB - 1,
        vision=SmolVisionConfig(width=16, layers=2, heads=2, feed_forward=24, patch=4, grid=5),
        connector_width=24,
    ),
    image_size=(16, 16),
)

MODELS = {"medvista_tiny": tiny.MODEL, "qwen3_vl": QWEN, "medvista_smol": SMOL}
EVERYTHING = LoRAConfig(rank=3, alpha=5.0, modules=".*")


@functools.cache
def base_params(name: str) -> Params:
    """Random parameters, all of them perturbed."""
    rng = np.random.default_rng(0)

    def draw(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        spread = leaf.shape[0] ** -0.5 if path.endswith("kernel") else 0.5 if path.endswith("position") else 0.1
        return jnp.asarray(path.endswith("scale") + spread * rng.standard_normal(leaf.shape), jnp.float32)

    model = MODELS[name]
    return nest(
        {path: draw(path, leaf) for path, leaf in flatten(jax.eval_shape(model.init, jax.random.key(0))).items()}
    )


def adapted(name: str, config: LoRAConfig = EVERYTHING):
    """The model with adapters that do something, and its parameters."""
    model = with_lora(MODELS[name], config)
    flat = flatten(init_lora(model, base_params(name), jax.random.key(1)))
    rng = np.random.default_rng(1)
    noise = {path: 0.3 * rng.standard_normal(x.shape) for path, x in flat.items() if path.endswith("lora_b")}
    return model, nest(flat | {path: jnp.asarray(x, jnp.float32) for path, x in noise.items()})


def merged_by_hand(params: Params, scale: float, dtype: str = "float32") -> Params:
    """``W + scale · A B`` in float64, by NumPy."""
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(params).items()}
    kernels = {path.removesuffix("_lora_a") for path in flat if path.endswith("_lora_a")}
    for path in kernels:
        flat[path] = flat[path] + scale * (flat[path + "_lora_a"] @ flat[path + "_lora_b"]).reshape(flat[path].shape)
    return nest({path: jnp.asarray(leaf, dtype) for path, leaf in flat.items() if "_lora_" not in path})


TOKENS = np.random.default_rng(2).integers(0, tiny.VOCAB - 1, (2, 9)).astype(np.int32)
FEATURE = np.full((2, 9), -1, np.int32)
FEATURE[0, 1:5] = np.arange(4)
FEATURE[1, 3:7] = 4 + np.arange(4)
VALID = np.ones((2, 9), bool)
VALID[1, 7:] = False
PIXELS = np.random.default_rng(3).integers(0, 256, (4, 16, 16, 1)).astype(np.uint8)


def inputs(model, params: Params):
    """Two rows, two images each of which one is read: arguments of ``forward`` behind the parameters."""
    flat = model.encode_images(params, jnp.asarray(PIXELS))
    features = jax.tree.map(lambda x: x.reshape((2, 2) + x.shape[1:]), flat)
    tokens, feature, valid = jnp.asarray(TOKENS), jnp.asarray(FEATURE), jnp.asarray(VALID)
    positions, _ = model.positions(jnp.zeros((2,), jnp.int32), valid, feature)
    return tokens, feature, features, positions, valid


def logits_of(model, params: Params) -> jax.Array:
    hidden, _ = model.forward(params, *inputs(model, params))
    return model.logits(params, hidden)


run = jax.jit(logits_of, static_argnums=0)
