"""Qwen2.5-VL (arXiv 2502.13923): ViT with window attention, RMSNorm and gated feed-forward; M-RoPE in three runs.

An image of h × w pixels costs ``(h / 28) · (w / 28)`` embeddings with the hub's patch of 14 and merge of 2. Most layers
of the tower attend within windows of 8 × 8 patches, so that their cost grows with the pixels and not with their square.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Params
from medvista_jax.models.blocks import ACTIVATIONS, DecoderConfig, RMSNorm
from medvista_jax.models.qwen_model import QwenModel
from medvista_jax.models.qwen_vision import VisionAttention, Windows, axial_tables, merge_order
from medvista_jax.models.vit import dense

NORM_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower, by the hub's names: ``width`` is ``hidden_size``, ``feed_forward`` is ``intermediate_size``.

    Attributes:
      window: side of an attention window in pixels; a window is as many whole merged blocks as fit.
      full_attention: layers in which every patch of an image sees every other.
    """

    width: int
    layers: int
    heads: int
    feed_forward: int
    out_width: int
    patch: int = 14
    merge: int = 2
    temporal: int = 2
    channels: int = 3
    window: int = 112
    full_attention: tuple[int, ...] = (7, 15, 23, 31)
    activation: str = "silu"
    rope_theta: float = 10_000.0

    @property
    def window_side(self) -> int:
        """Merged blocks along a side of a window."""
        return self.window // (self.patch * self.merge)


@dataclasses.dataclass(frozen=True)
class Qwen25VLConfig:
    """Tower, decoder and the special ids of the vocabulary; mean and deviation of colours are CLIP's."""

    vision: VisionConfig
    decoder: DecoderConfig
    image_token: int
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)


def window_order(height: int, width: int, side: int) -> tuple[np.ndarray, Windows]:
    """Sort the cells of a grid by the window they lie in, windows of one shape behind each other.

    Windows begin at the upper left; at the right and lower edges they may be partial. So there are at most four shapes,
    and the windows of a shape are one batch: nothing is padded and nothing masked.

    Args:
      height, width: of the grid, in cells.
      side: of a window, in cells.

    Returns:
      int ``[L]``, the row-major index of every cell in the new order, and for each shape how many windows there are and
      how many cells each has.
    """
    index = np.arange(height * width).reshape(height, width)
    order, windows = [], []
    for band in np.split(index, [height - height % side]):
        for part in np.split(band, [width - width % side], axis=1):
            if part.size:
                y, x = min(side, part.shape[0]), min(side, part.shape[1])
                cells = part.reshape(part.shape[0] // y, y, part.shape[1] // x, x).transpose(0, 2, 1, 3)
                order.append(cells.reshape(-1))
                windows.append((part.size // (y * x), y * x))
    return np.concatenate(order), tuple(windows)


class VisionBlock(nn.Module):
    """Pre-norm attention within windows and gated feed-forward, with biases."""

    config: VisionConfig

    @nn.compact
    def __call__(self, x_NPE: Array, tables: tuple[Array, Array], windows: Windows) -> Array:
        c = self.config
        y_NPE = RMSNorm(NORM_EPSILON, name="norm1")(x_NPE)
        x_NPE = x_NPE + VisionAttention(c.heads, name="attention")(y_NPE, tables, windows)
        y_NPE = RMSNorm(NORM_EPSILON, name="norm2")(x_NPE)
        gate_NPF = ACTIVATIONS[c.activation](dense(c.feed_forward, "gate", y_NPE))
        y_NPF = gate_NPF * dense(c.feed_forward, "up", y_NPE)
        return x_NPE + dense(c.width, "down", y_NPF)


class VisionTower(nn.Module):
    """Patches in merge order to their last hidden states, in merge order again."""

    config: VisionConfig

    @nn.compact
    def __call__(self, patches_NPD: Array, grid: tuple[int, int]) -> Array:
        c, unit = self.config, self.config.merge**2
        row_P, column_P = merge_order(*grid, c.merge)
        order_L, windows = window_order(grid[0] // c.merge, grid[1] // c.merge, c.window_side)
        windows = tuple((count, cells * unit) for count, cells in windows)
        # Inside the tower patches stand in the order of the windows; the blocks of the merging stay together.
        order_P = (order_L[:, None] * unit + np.arange(unit)[None, :]).reshape(-1)
        x_NPE = dense(c.width, "patch", patches_NPD[:, order_P], use_bias=False)
        tables = axial_tables(row_P[order_P], column_P[order_P], c.width // c.heads, c.rope_theta)
        for i in range(c.layers):
            here = ((1, len(order_P)),) if i in c.full_attention else windows
            x_NPE = VisionBlock(c, name=f"layer_{i}")(x_NPE, tables, here)
        return x_NPE[:, np.argsort(order_P)]


class Connector(nn.Module):
    """``merge²`` neighbouring patches to one embedding."""

    config: VisionConfig

    @nn.compact
    def __call__(self, x_NPE: Array) -> Array:
        c = self.config
        wide = c.width * c.merge**2
        x_NLE = RMSNorm(NORM_EPSILON, name="norm")(x_NPE).reshape(x_NPE.shape[0], -1, wide)
        x_NLE = jax.nn.gelu(dense(wide, "up", x_NLE), approximate=False)
        return dense(c.out_width, "down", x_NLE)


@dataclasses.dataclass(frozen=True)
class Qwen25VL(QwenModel):
    """The model as pure functions; see :class:`medvista_jax.models.vlm.VisionLanguageModel`. Features are the
    embeddings ``[N, L, E]`` alone."""

    config: Qwen25VLConfig

    def init(self, key: Array) -> Params:
        c = self.config.vision
        key_vision, key_connector, key_decoder = jax.random.split(key, 3)
        patches = jnp.zeros((1, c.merge**2, c.channels * c.temporal * c.patch**2), jnp.float32)
        last = jnp.zeros((1, c.merge**2, c.width), jnp.float32)
        tower, connector = self.module(VisionTower(c), "vision"), self.module(Connector(c), "connector")
        return {
            "vision": tower.init(key_vision, patches, (c.merge, c.merge))["params"],
            "connector": connector.init(key_connector, last)["params"],
            "decoder": self.init_decoder(key_decoder),
        }

    def encode_patches(self, params: Params, patches_NPD: Array, grid: tuple[int, int]) -> Array:
        """Embeddings ``[N, L, E]`` of images of one grid of patches (static), patches in merge order.

        Raises:
          ValueError: a side of the grid does not divide by ``merge``.
        """
        c = self.config.vision
        patches_NPD = patches_NPD.astype(params["vision"]["patch"]["kernel"].dtype)
        tower, connector = self.module(VisionTower(c), "vision"), self.module(Connector(c), "connector")
        x_NPE = tower.apply({"params": params["vision"]}, patches_NPD, grid)
        return connector.apply({"params": params["connector"]}, x_NPE)
