"""The packaged 157M model: DINOv2 ViT-S/14 (arXiv 2304.07193), a two-layer connector, SmolLM2-135M (arXiv 2502.02737).

Any view whose sides are multiples of patch × merge = 28 pixels is a bucket; an image costs ``(h / 28) · (w / 28)``
embeddings:

| view      | patches | embeddings |
| --------- | ------- | ---------- |
| 112 × 112 | 8 × 8   | 16         |
| 224 × 224 | 16 × 16 | 64         |
| 224 × 336 | 16 × 24 | 96         |
| 336 × 336 | 24 × 24 | 144        |
| 448 × 448 | 32 × 32 | 256        |
"""

from __future__ import annotations

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Params
from medvista_jax.models.attention import attend
from medvista_jax.models.blocks import ACTIVATIONS, DecoderConfig
from medvista_jax.models.hub_model import HubModel, require_blocks
from medvista_jax.models.images import normalise
from medvista_jax.models.inputs import BadInputs
from medvista_jax.models.vit import cut_patches, dense, layer_norm, resample_positions
from medvista_jax.models.vlm import Features


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower; DINOv2 ViT-S/14 by default.

    Attributes:
      patch: pixels a side of a patch.
      grid: side of the learned position table, resampled to the grid of the view.
    """

    width: int = 384
    layers: int = 12
    heads: int = 6
    feed_forward: int = 1536
    patch: int = 14
    channels: int = 3
    grid: int = 37
    norm_epsilon: float = 1e-6
    activation: str = "gelu"
    qkv_bias: bool = True


@dataclasses.dataclass(frozen=True)
class MedVistaSmolConfig:
    """Tower, connector and decoder.

    Attributes:
      connector_width: hidden width of the connector.
      merge: patches a side of a square that becomes one embedding.
      image_token: id that stands for one embedding of an image.
      image_mean, image_std: of the pixels, by colour (ImageNet's).
      view: h, w of the bucket that a model takes unless told otherwise; what the connector was trained on.
    """

    decoder: DecoderConfig
    image_token: int
    vision: VisionConfig = VisionConfig()
    connector_width: int = 576
    merge: int = 2
    connector_activation: str = "gelu"
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    view: tuple[int, int] = (224, 224)


class VisionBlock(nn.Module):
    """Pre-norm attention and feed-forward; a learned scale a channel before each sum (arXiv 2103.17239)."""

    config: VisionConfig

    @nn.compact
    def __call__(self, x_NPE: Array) -> Array:
        c, dtype = self.config, x_NPE.dtype
        count, length, width = x_NPE.shape

        def heads(name: str) -> Array:
            y = dense(width, name, y_NPE, c.qkv_bias)
            return y.reshape(count, length, c.heads, width // c.heads)

        def scaled(y_NPE: Array, name: str) -> Array:
            scale_E = self.param(name, nn.initializers.ones, (width,), jnp.float32)
            return y_NPE * scale_E.astype(dtype)[None, None]

        y_NPE = layer_norm(c.norm_epsilon, "norm1", x_NPE)
        k_NHDP, v_NHPD = heads("key").transpose(0, 2, 3, 1), heads("value").transpose(0, 2, 1, 3)
        y_NPE = dense(width, "out", attend(heads("query"), k_NHDP, v_NHPD, None))
        x_NPE = x_NPE + scaled(y_NPE, "scale1")
        y_NPE = layer_norm(c.norm_epsilon, "norm2", x_NPE)
        y_NPF = ACTIVATIONS[c.activation](dense(c.feed_forward, "up", y_NPE))
        return x_NPE + scaled(dense(width, "down", y_NPF), "scale2")


class VisionTower(nn.Module):
    """Normalised pixels ``[N, h, w, C]`` to ``[N, 1 + patches, width]``: the class token, then patches row by row."""

    config: VisionConfig

    @nn.compact
    def __call__(self, x_NhwC: Array) -> Array:
        c = self.config
        count, rows, columns = x_NhwC.shape[0], x_NhwC.shape[1] // c.patch, x_NhwC.shape[2] // c.patch
        normal = nn.initializers.normal(0.02)
        table_1PE = self.param("position", normal, (1, 1 + c.grid**2, c.width))
        class_11E = self.param("class_token", normal, (1, 1, c.width))
        dtype = table_1PE.dtype
        x_NPD = cut_patches(x_NhwC.transpose(0, 3, 1, 2).astype(dtype), (c.patch, c.patch))
        x_NPE = dense(c.width, "patch", x_NPD)
        x_NPE = jnp.concatenate([jnp.broadcast_to(class_11E, (count, 1, c.width)).astype(dtype), x_NPE], axis=1)
        x_NPE = x_NPE + resample_positions(table_1PE, rows, columns)
        for i in range(c.layers):
            x_NPE = VisionBlock(c, name=f"layer_{i}")(x_NPE)
        return layer_norm(c.norm_epsilon, "final_norm", x_NPE)


class Connector(nn.Module):
    """Squares of ``merge × merge`` patches to one decoder embedding each: two layers."""

    config: MedVistaSmolConfig

    @nn.compact
    def __call__(self, x_NYXE: Array) -> Array:
        c = self.config
        count, rows, columns, width = x_NYXE.shape
        x = x_NYXE.reshape(count, rows // c.merge, c.merge, columns // c.merge, c.merge, width)
        x_NLE = x.transpose(0, 1, 3, 2, 4, 5).reshape(count, -1, c.merge**2 * width)
        x_NLE = dense(c.connector_width, "up", x_NLE)
        x_NLE = ACTIVATIONS[c.connector_activation](x_NLE)
        return dense(c.decoder.width, "down", x_NLE)


@dataclasses.dataclass(frozen=True)
class MedVistaSmol(HubModel):
    """The model as pure functions; see :class:`medvista_jax.models.vlm.VisionLanguageModel`."""

    config: MedVistaSmolConfig

    def default_image_size(self) -> tuple[int, int]:
        """The configuration's own view."""
        return self.config.view

    def __post_init__(self) -> None:
        super().__post_init__()
        require_blocks(self.image_size, self.config.vision.patch, self.config.merge)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of a view: rows, columns."""
        return self.image_size[0] // self.config.vision.patch, self.image_size[1] // self.config.vision.patch

    @property
    def tokens_per_image(self) -> int:
        return self.grid[0] * self.grid[1] // self.config.merge**2

    def init(self, key: Array) -> Params:
        c = self.config
        key_vision, key_connector, key_decoder = jax.random.split(key, 3)
        side = c.vision.patch * c.merge
        pixels = jnp.zeros((1, side, side, c.vision.channels), jnp.float32)
        patches = jnp.zeros((1, c.merge, c.merge, c.vision.width), jnp.float32)
        tower, connector = self.module(VisionTower(c.vision), "vision"), self.module(Connector(c), "connector")
        return {
            "vision": tower.init(key_vision, pixels)["params"],
            "connector": connector.init(key_connector, patches)["params"],
            "decoder": self.init_decoder(key_decoder),
        }

    def encode_patches(self, params: Params, pixels_NhwC: Array) -> Array:
        """The vision tower alone, on normalised pixels of any bucket: ``[N, rows, columns, vision width]``."""
        c = self.config.vision
        x_NPE = self.module(VisionTower(c), "vision").apply({"params": params["vision"]}, pixels_NhwC)
        rows, columns = pixels_NhwC.shape[1] // c.patch, pixels_NhwC.shape[2] // c.patch
        return x_NPE[:, 1:].reshape(len(pixels_NhwC), rows, columns, c.width)

    def connect(self, params: Params, patches_NYXE: Array) -> Features:
        """Embeddings ``[N, L, E]`` of what :meth:`encode_patches` gives."""
        connector = self.module(Connector(self.config), "connector")
        return connector.apply({"params": params["connector"]}, patches_NYXE)

    def normalised(self, pixels_NhwC: Array) -> Array:
        """uint8 views to what the tower reads."""
        return normalise(pixels_NhwC, self.config.image_mean, self.config.image_std)

    def encode_images(self, params: Params, pixels_NhwC: Array) -> Features:
        return self.connect(params, self.encode_patches(params, self.normalised(pixels_NhwC)))

    def encode_inputs(
        self, params: Params, pixel_values: np.ndarray, image_grid_thw: np.ndarray | None = None
    ) -> tuple[Features, None]:
        """Features of images as the hub's processor hands them over.

        Args:
          pixel_values: ``[images, 3, h, w]``, normalised.
          image_grid_thw: not used; the sizes say it.

        Returns:
          ``[N, E]``, the embeddings of all images one behind the other, and nothing about places: every embedding
          takes the next position.

        Raises:
          BadInputs: a shape that is no image, or sides that are no multiples of patch × merge.
        """
        c = self.config
        unit = c.vision.patch * c.merge
        shape = np.shape(pixel_values)
        if len(shape) != 4 or shape[1] != c.vision.channels or shape[2] % unit or shape[3] % unit:
            raise BadInputs(
                f"pixel_values must be [images, {c.vision.channels}, h, w], h and w multiples of {unit}, not {shape}"
            )
        return _encode(self, params, jnp.asarray(pixel_values).transpose(0, 2, 3, 1)), None


@partial(jax.jit, static_argnames=("model",))
def _encode(model: MedVistaSmol, params: Params, pixels_NhwC: Array) -> Array:
    features_NLE = model.connect(params, model.encode_patches(params, pixels_NhwC))
    return features_NLE.reshape(-1, features_NLE.shape[-1])
