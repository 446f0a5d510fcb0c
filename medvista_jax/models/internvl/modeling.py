"""InternVL3 (arXiv 2504.10479): InternViT over square tiles, pixel shuffle, a two-layer projector, a causal decoder.

A tile costs ``(h / patch / merge) · (w / patch / merge)`` embeddings: 256 with the hub's tiles of 448 × 448, patches of
14 and merge of 2. The hub's image processor cuts a large image into up to 12 tiles and adds a thumbnail of the whole;
here a view of the rollout is one tile.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Params
from medvista_jax.models.attention import attend
from medvista_jax.models.blocks import ACTIVATIONS, DecoderConfig, RMSNorm
from medvista_jax.models.hub_model import HubModel
from medvista_jax.models.images import internvl_pixels
from medvista_jax.models.inputs import BadInputs
from medvista_jax.models.vit import cut_patches, dense, layer_norm, resample_positions
from medvista_jax.models.vlm import Features

QK_NORM_EPSILON = 1e-6
PROJECTOR_EPSILON = 1e-5
TILES_AT_ONCE = 16
"""Attention scores of a tile take 67 MB with the hub's sizes, and a large image is 13 tiles."""


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower, by the hub's names: ``width`` is ``hidden_size``, ``feed_forward`` is ``intermediate_size``.

    Attributes:
      image_size: h, w in pixels that the learned positions were made for; they are resampled for other sizes.
      patch: h, w of a patch in pixels.
      norm: ``"layer_norm"`` or ``"rms_norm"``, of the layers.
      qkv_bias: whether q, k and v have biases; the output projection always has one.
      qk_norm: RMSNorm over the whole width of queries and keys.
      positions: whether there are learned positions at all.
      mask_token: whether the checkpoint has one. It is kept, and read by nobody.
      final_norm: LayerNorm behind the last layer.
      layer_scale: initial factor on what attention and feed-forward add.
    """

    width: int
    layers: int
    heads: int
    feed_forward: int
    image_size: tuple[int, int] = (448, 448)
    patch: tuple[int, int] = (14, 14)
    activation: str = "gelu"
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    positions: bool = True
    mask_token: bool = False
    final_norm: bool = False
    layer_scale: float = 0.1

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches of a tile: rows, columns. Pixels beyond the last whole patch are not looked at."""
        return height // self.patch[0], width // self.patch[1]


@dataclasses.dataclass(frozen=True)
class InternVLConfig:
    """Tower, projector, decoder and the special ids of the vocabulary.

    Attributes:
      merge: side of the blocks of patches that become one embedding: 1 over the hub's ``downsample_ratio``.
      activation: of the projector.
      feature_layer: which hidden state of the tower is read: 0 is the input of the first layer, negative numbers count
        from the end, and -1 alone is seen through the final norm.
      keep_cls: the CLS token goes through the pixel shuffle too (the hub's ``"full"``).
    """

    vision: VisionConfig
    decoder: DecoderConfig
    image_token: int
    merge: int = 2
    activation: str = "gelu"
    feature_layer: int = -1
    keep_cls: bool = False
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def side(self, height: int, width: int) -> int:
        """Embeddings along a side of the square that a tile of ``height × width`` pixels becomes.

        Raises:
          ValueError: a tile whose patches make no such square, or whose positions cannot be resampled.
        """
        rows, columns = self.vision.grid(height, width)
        count = rows * columns + self.keep_cls
        side = math.isqrt(count)
        if rows * columns == 0 or side * side != count or side % self.merge:
            kept = "with the CLS token " if self.keep_cls else ""
            raise ValueError(
                f"a tile of {height} x {width} pixels gives {rows} x {columns} patches of {self.vision.patch} pixels, "
                f"{kept}{count} vectors; the pixel shuffle needs the square of a multiple of {self.merge}. The "
                f"configuration's own tiles are {self.vision.image_size}"
            )
        known = math.prod(self.vision.grid(*self.vision.image_size))
        if self.vision.positions and resampled(self.vision, height, width) and math.isqrt(known) ** 2 != known:
            raise ValueError(
                f"the {known} learned positions are for tiles of {self.vision.image_size} pixels; they make no square "
                f"grid, so they cannot be resampled for a tile of {height} x {width}"
            )
        return side // self.merge


def resampled(config: VisionConfig, height: int, width: int) -> bool:
    """Whether a tile needs other positions than the learned ones.

    The hub's models take the table as it is only for square tiles; else they take it to be a square grid, whatever
    shape the configuration's own tiles have.
    """
    rows, columns = config.grid(height, width)
    return height != width or rows * columns != math.prod(config.grid(*config.image_size))


def pixel_shuffle(x_NPE: Array, merge: int) -> Array:
    """Blocks of ``merge × merge`` vectors of a square side by side: ``[N, P / merge², merge² · E]``, all row-major."""
    count, patches, width = x_NPE.shape
    side = math.isqrt(patches) // merge
    x = x_NPE.reshape(count, side, merge, side, merge, width).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(count, side * side, merge * merge * width)


class VisionBlock(nn.Module):
    """Pre-norm attention and feed-forward, both scaled per channel before they are added."""

    config: VisionConfig

    @nn.compact
    def __call__(self, x_NPE: Array) -> Array:
        x_NPE = x_NPE + self._scaled("lambda_1", self._attention(self._norm("norm1", x_NPE)))
        y_NPE = self._feed_forward(self._norm("norm2", x_NPE))
        return x_NPE + self._scaled("lambda_2", y_NPE)

    def _norm(self, name: str, x_NPE: Array) -> Array:
        if self.config.norm == "rms_norm":
            return RMSNorm(self.config.norm_epsilon, name=name)(x_NPE)
        return layer_norm(self.config.norm_epsilon, name, x_NPE)

    def _scaled(self, name: str, x_NPE: Array) -> Array:
        scale_E = self.param(name, nn.initializers.constant(self.config.layer_scale), (x_NPE.shape[-1],))
        return x_NPE * scale_E[None, None].astype(x_NPE.dtype)

    def _attention(self, x_NPE: Array) -> Array:
        c, (count, patches, width) = self.config, x_NPE.shape
        q_NPE, k_NPE, v_NPE = (dense(width, name, x_NPE, c.qkv_bias) for name in "qkv")
        if c.qk_norm:
            q_NPE = RMSNorm(QK_NORM_EPSILON, name="q_norm")(q_NPE)
            k_NPE = RMSNorm(QK_NORM_EPSILON, name="k_norm")(k_NPE)
        q_NPHD, k_NPHD, v_NPHD = (x.reshape(count, patches, c.heads, width // c.heads) for x in (q_NPE, k_NPE, v_NPE))
        mixed_NPE = attend(q_NPHD, k_NPHD.transpose(0, 2, 3, 1), v_NPHD.transpose(0, 2, 1, 3), None)
        return dense(width, "o", mixed_NPE)

    def _feed_forward(self, x_NPE: Array) -> Array:
        c = self.config
        return dense(c.width, "down", ACTIVATIONS[c.activation](dense(c.feed_forward, "up", x_NPE)))


class VisionTower(nn.Module):
    """Tiles ``[N, C, h, w]`` to all hidden states ``[N, 1 + P, E]``, CLS first: the input of the first layer, the
    output of every layer but the last, what the last gives, and that behind the final norm (or the same again)."""

    config: VisionConfig

    @nn.compact
    def __call__(self, pixels_NChw: Array) -> tuple[Array, ...]:
        c, normal = self.config, nn.initializers.normal(0.02)
        height, width = pixels_NChw.shape[2:]
        known = math.prod(c.grid(*c.image_size))
        cls_11E = self.param("cls", normal, (1, 1, c.width))
        if c.mask_token:
            self.param("mask", normal, (1, 1, c.width))
        patches_NPD = cut_patches(pixels_NChw.astype(cls_11E.dtype), c.patch)
        x_NPE = dense(c.width, "patch", patches_NPD)
        x_NPE = jnp.concatenate([jnp.broadcast_to(cls_11E, (len(x_NPE), 1, c.width)), x_NPE], axis=1)
        if c.positions:
            table_1PE = self.param("position", normal, (1, 1 + known, c.width))
            if resampled(c, height, width):
                table_1PE = resample_positions(table_1PE, *c.grid(height, width))
            x_NPE = x_NPE + table_1PE
        states = [x_NPE]
        for i in range(c.layers):
            states.append(VisionBlock(c, name=f"layer_{i}")(states[-1]))
        states.append(layer_norm(c.norm_epsilon, "norm", states[-1]) if c.final_norm else states[-1])
        return tuple(states)


class Connector(nn.Module):
    """Pixel shuffle and the two-layer projector: ``[N, P, E]`` of the tower to ``[N, L, E]`` of the decoder."""

    config: InternVLConfig

    @nn.compact
    def __call__(self, x_NPE: Array) -> Array:
        c = self.config
        x_NLE = layer_norm(PROJECTOR_EPSILON, "norm", pixel_shuffle(x_NPE, c.merge))
        x_NLE = ACTIVATIONS[c.activation](dense(c.decoder.width, "up", x_NLE))
        return dense(c.decoder.width, "down", x_NLE)


@dataclasses.dataclass(frozen=True)
class InternVL(HubModel):
    """The model as pure functions; see :class:`medvista_jax.models.vlm.VisionLanguageModel`."""

    config: InternVLConfig

    def default_image_size(self) -> tuple[int, int]:
        """The configuration's own tiles."""
        return self.config.vision.image_size

    def __post_init__(self) -> None:
        super().__post_init__()
        self.config.side(*self.image_size)

    @property
    def tokens_per_image(self) -> int:
        return self.config.side(*self.image_size) ** 2

    def init(self, key: Array) -> Params:
        c = self.config
        key_vision, key_connector, key_decoder = jax.random.split(key, 3)
        pixels_NChw = jnp.zeros((1, len(c.image_mean), *self.image_size), jnp.float32)
        x_NPE = jnp.zeros((1, c.merge**2, c.vision.width), jnp.float32)
        tower, connector = self.module(VisionTower(c.vision), "vision"), self.module(Connector(c), "connector")
        return {
            "vision": tower.init(key_vision, pixels_NChw)["params"],
            "connector": connector.init(key_connector, x_NPE)["params"],
            "decoder": self.init_decoder(key_decoder),
        }

    def encode_tiles(self, params: Params, pixels_NChw: Array) -> Array:
        """Embeddings ``[N, L, E]`` of normalised tiles of any size that :meth:`InternVLConfig.side` allows."""
        c = self.config
        c.side(*pixels_NChw.shape[2:])
        tower, connector = self.module(VisionTower(c.vision), "vision"), self.module(Connector(c), "connector")
        *states, last = tower.apply({"params": params["vision"]}, pixels_NChw)
        x_NPE = last if c.feature_layer == -1 else states[c.feature_layer]
        return connector.apply({"params": params["connector"]}, x_NPE if c.keep_cls else x_NPE[:, 1:])

    def encode_images(self, params: Params, pixels_NhwC: Array) -> Features:
        c = self.config
        return self.encode_tiles(params, internvl_pixels(pixels_NhwC, c.image_mean, c.image_std))

    def encode_inputs(
        self, params: Params, pixel_values: np.ndarray, image_grid_thw: np.ndarray | None = None
    ) -> tuple[Features, None]:
        """Embeddings ``[N, E]`` of images as the hub's processor hands them over, one tile behind the other.

        Args:
          pixel_values: ``[tiles, C, h, w]``, the tiles and thumbnails of all images.
          image_grid_thw: not used by this family.

        Returns:
          The embeddings, and ``None``: they have no places but those in the sequence.

        Raises:
          BadInputs: pixel values of another shape.
        """
        del image_grid_thw
        channels = len(self.config.image_mean)
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels or not len(pixel_values):
            raise BadInputs(
                f"pixel_values must be [tiles, {channels}, h, w] with a tile at least, not {pixel_values.shape}; "
                "leave them out for text alone"
            )
        starts = range(0, len(pixel_values), TILES_AT_ONCE)
        parts = [_encode(self, params, jnp.asarray(pixel_values[at : at + TILES_AT_ONCE])) for at in starts]
        return jnp.concatenate(parts).reshape(-1, parts[0].shape[-1]), None


@partial(jax.jit, static_argnames=("model",))
def _encode(model: InternVL, params: Params, pixels_NChw: Array) -> Array:
    return model.encode_tiles(params, pixels_NChw)
