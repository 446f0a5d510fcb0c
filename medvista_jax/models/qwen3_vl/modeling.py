"""Qwen3-VL (arXiv 2511.21631), dense: ViT with interpolated positions, DeepStack mergers, interleaved M-RoPE.

An image of h × w pixels costs ``(h / 32) · (w / 32)`` embeddings with the hub's patch of 16 and merge of 2.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from medvista_jax.core.types import Array, Params
from medvista_jax.models.blocks import ACTIVATIONS, DecoderConfig
from medvista_jax.models.qwen_model import QwenModel
from medvista_jax.models.qwen_vision import VisionAttention, axial_tables, merge_order
from medvista_jax.models.vit import dense, layer_norm
from medvista_jax.models.vlm import place_features

NORM_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower, by the hub's names: ``width`` is ``hidden_size``, ``feed_forward`` is ``intermediate_size``.

    Attributes:
      grid: side of the learned position table, resampled to each image's grid.
      deepstack: layers whose output is merged for the first layers of the decoder.
    """

    width: int
    layers: int
    heads: int
    feed_forward: int
    out_width: int
    patch: int = 16
    merge: int = 2
    temporal: int = 2
    channels: int = 3
    grid: int = 48
    deepstack: tuple[int, ...] = (8, 16, 24)
    activation: str = "gelu_pytorch_tanh"
    rope_theta: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class Qwen3VLConfig:
    """Tower, decoder and the special ids of the vocabulary."""

    vision: VisionConfig
    decoder: DecoderConfig
    image_token: int
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)


@struct.dataclass
class Qwen3VLFeatures:
    """Features of images.

    Attributes:
      embeddings: ``[…, L, E]``, in the place of token embeddings.
      deepstack: ``[…, L, E]`` each, added behind the first layers of the decoder.
    """

    embeddings: Array
    deepstack: tuple[Array, ...]


def interpolation(height: int, width: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear resampling, corners aligned, of a ``side × side`` table to a grid: indices and weights ``[y, x, 4]``."""

    def axis(count: int) -> tuple[np.ndarray, np.ndarray]:
        at = np.linspace(0.0, side - 1, count, dtype=np.float32)
        low = at.astype(np.int64)
        high = np.minimum(low + 1, side - 1)
        part = at - low
        return np.stack([low, high], axis=1), np.stack([1 - part, part], axis=1)

    row_y2, weight_y2 = axis(height)
    column_x2, weight_x2 = axis(width)
    index = row_y2[:, None, :, None] * side + column_x2[None, :, None, :]
    weight = weight_y2[:, None, :, None] * weight_x2[None, :, None, :]
    return index.reshape(height, width, 4), weight.reshape(height, width, 4)


class VisionBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    config: VisionConfig

    @nn.compact
    def __call__(self, x_NPE: Array, tables: tuple[Array, Array]) -> Array:
        c = self.config
        y_NPE = layer_norm(NORM_EPSILON, "norm1", x_NPE)
        x_NPE = x_NPE + VisionAttention(c.heads, name="attention")(y_NPE, tables)
        y_NPE = layer_norm(NORM_EPSILON, "norm2", x_NPE)
        y_NPF = ACTIVATIONS[c.activation](dense(c.feed_forward, "up", y_NPE))
        return x_NPE + dense(c.width, "down", y_NPF)


class Merger(nn.Module):
    """``merge²`` neighbouring patches to one embedding; the norm stands before or behind the merging."""

    config: VisionConfig
    norm_merged: bool

    @nn.compact
    def __call__(self, x_NPE: Array) -> Array:
        c = self.config
        wide = c.width * c.merge**2
        if not self.norm_merged:
            x_NPE = layer_norm(NORM_EPSILON, "norm", x_NPE)
        x_NLE = x_NPE.reshape(x_NPE.shape[0], -1, wide)
        if self.norm_merged:
            x_NLE = layer_norm(NORM_EPSILON, "norm", x_NLE)
        x_NLE = jax.nn.gelu(dense(wide, "up", x_NLE), approximate=False)
        return dense(c.out_width, "down", x_NLE)


class VisionTower(nn.Module):
    """Patches in merge order to what the mergers read: the last hidden state and those of the DeepStack layers."""

    config: VisionConfig

    @nn.compact
    def __call__(self, patches_NPD: Array, grid: tuple[int, int]) -> tuple[Array, tuple[Array, ...]]:
        c = self.config
        row_P, column_P = merge_order(*grid, c.merge)
        table_NE = self.param("position", nn.initializers.normal(0.02), (c.grid**2, c.width))
        index, weight = (part[row_P, column_P] for part in interpolation(*grid, c.grid))
        position_PE = jnp.sum(table_NE[index] * weight[..., None].astype(table_NE.dtype), axis=1)
        x_NPE = dense(c.width, "patch", patches_NPD.astype(table_NE.dtype))
        x_NPE = x_NPE + position_PE[None]
        tables = axial_tables(row_P, column_P, c.width // c.heads, c.rope_theta)
        seen = []
        for i in range(c.layers):
            x_NPE = VisionBlock(c, name=f"layer_{i}")(x_NPE, tables)
            if i in c.deepstack:
                seen.append(x_NPE)
        return x_NPE, tuple(seen)


class Connector(nn.Module):
    """One merger for the embeddings and one for each DeepStack layer."""

    config: VisionConfig

    @nn.compact
    def __call__(self, last_NPE: Array, seen: tuple[Array, ...]) -> Qwen3VLFeatures:
        c = self.config
        merger = lambda i: Merger(c, norm_merged=True, name=f"deepstack_{i}")  # noqa: E731
        # The i-th merger belongs to the i-th layer named, in whatever order; the decoder takes layers as they come.
        order = [c.deepstack.index(layer) for layer in sorted(c.deepstack)]
        return Qwen3VLFeatures(
            embeddings=Merger(c, norm_merged=False, name="merger")(last_NPE),
            deepstack=tuple(merger(i)(x_NPE) for i, x_NPE in zip(order, seen, strict=True)),
        )


@dataclasses.dataclass(frozen=True)
class Qwen3VL(QwenModel):
    """The model as pure functions; see :class:`medvista_jax.models.vlm.VisionLanguageModel`."""

    config: Qwen3VLConfig

    def init(self, key: Array) -> Params:
        c = self.config.vision
        key_vision, key_connector, key_decoder = jax.random.split(key, 3)
        patches = jnp.zeros((1, c.merge**2, c.channels * c.temporal * c.patch**2), jnp.float32)
        last = jnp.zeros((1, c.merge**2, c.width), jnp.float32)
        tower, connector = self.module(VisionTower(c), "vision"), self.module(Connector(c), "connector")
        return {
            "vision": tower.init(key_vision, patches, (c.merge, c.merge))["params"],
            "connector": connector.init(key_connector, last, (last,) * len(c.deepstack))["params"],
            "decoder": self.init_decoder(key_decoder),
        }

    def encode_patches(self, params: Params, patches_NPD: Array, grid: tuple[int, int]) -> Qwen3VLFeatures:
        """Features ``[N, L, …]`` of images of one grid of patches (static), patches in merge order."""
        c = self.config.vision
        tower, connector = self.module(VisionTower(c), "vision"), self.module(Connector(c), "connector")
        last, seen = tower.apply({"params": params["vision"]}, patches_NPD, grid)
        return connector.apply({"params": params["connector"]}, last, seen)

    def embeddings(self, features: Qwen3VLFeatures) -> Array:
        return features.embeddings

    def deepstack(self, features: Qwen3VLFeatures, feature_BT: Array) -> tuple[Array, ...]:
        return tuple(place_features(part, feature_BT) for part in features.deepstack)
