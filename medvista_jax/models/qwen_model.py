"""What Qwen2.5-VL and Qwen3-VL share beside their towers: patches in, M-RoPE positions, hub-style inputs."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Params
from medvista_jax.models.hub_model import HubModel, require_blocks
from medvista_jax.models.images import qwen_patches
from medvista_jax.models.inputs import BadInputs
from medvista_jax.models.mrope import grid_positions, grid_table
from medvista_jax.models.vlm import Features


@dataclasses.dataclass(frozen=True)
class QwenModel(HubModel):
    """Base of the two families. Subclasses give ``init`` and ``encode_patches(params, patches_NPD, grid)``: the
    features ``[N, L, …]`` of images of one static grid, patches in merge order."""

    def default_image_size(self) -> tuple[int, int]:
        """The square of whole merged patches nearest to 256 pixels a side."""
        unit = self.config.vision.patch * self.config.vision.merge
        return (max(1, round(256 / unit)) * unit,) * 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_blocks(self.image_size, self.config.vision.patch, self.config.vision.merge)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of a view: rows, columns."""
        return self.image_size[0] // self.config.vision.patch, self.image_size[1] // self.config.vision.patch

    @property
    def tokens_per_image(self) -> int:
        return self.grid[0] * self.grid[1] // self.config.vision.merge**2

    def encode_images(self, params: Params, pixels_NhwC: Array) -> Features:
        c, frames, mean, std = self.config, self.config.vision.temporal, self.config.image_mean, self.config.image_std
        if params["vision"]["patch"]["kernel"].dtype == jnp.float32:
            # A still picture is the same frame several times over, a grey one the same channel: one will do.
            grey = pixels_NhwC.shape[-1] == 1 and len({*zip(mean, std, strict=True)}) == 1
            params = _summed_patches(params, len(mean), frames, grey)
            frames, mean, std = 1, (mean[:1] if grey else mean), (std[:1] if grey else std)
        patches_NPD = qwen_patches(pixels_NhwC, c.vision.patch, c.vision.merge, frames, mean, std)
        return self.encode_patches(params, patches_NPD, self.grid)

    def positions(self, next_B: Array, valid_BT: Array, feature_BT: Array) -> tuple[Array, Array]:
        merge = self.config.vision.merge
        table_L3 = jnp.asarray(grid_table(self.grid[0] // merge, self.grid[1] // merge))
        within_BT = jnp.where(feature_BT >= 0, feature_BT % self.tokens_per_image, -1)
        return grid_positions(next_B, valid_BT, within_BT, table_L3[None])

    def encode_inputs(
        self, params: Params, pixel_values: np.ndarray, image_grid_thw: np.ndarray
    ) -> tuple[Features, np.ndarray]:
        """Features of images as the hub's processor hands them over, and their places.

        Args:
          pixel_values: ``[patches of all images, C·T·p·p]``.
          image_grid_thw: int ``[images, 3]``, patches of each image; its first column must be 1.

        Returns:
          Leaves ``[N, …]``, the embeddings of all images one behind the other, and int32 ``[N, 3]``
          (:func:`medvista_jax.models.mrope.grid_table` of each).

        Raises:
          BadInputs: a video, or sizes that do not fit together.
        """
        merge = self.config.vision.merge
        grids = self._check_inputs(pixel_values, image_grid_thw)
        sizes = [height * width for height, width in grids]
        starts = np.cumsum([0, *sizes])
        parts, tables = [], []
        for (height, width), start, size in zip(grids, starts[:-1], sizes, strict=True):
            patches_NPD = jnp.asarray(pixel_values[start : start + size])[None]
            parts.append(_encode(self, params, patches_NPD, (height, width)))
            tables.append(grid_table(height // merge, width // merge))
        features = jax.tree.map(lambda *leaves: jnp.concatenate([leaf[0] for leaf in leaves]), *parts)
        return features, np.concatenate(tables)

    def _check_inputs(self, pixel_values: np.ndarray, image_grid_thw: np.ndarray | None) -> list[tuple[int, int]]:
        """Rows and columns of patches of each image, or BadInputs."""
        c = self.config.vision
        if image_grid_thw is None:
            raise BadInputs("pixel_values came without image_grid_thw; this family needs both")
        thw = np.asarray(image_grid_thw)
        if thw.ndim != 2 or thw.shape[1] != 3 or not np.issubdtype(thw.dtype, np.integer) or (thw < 1).any():
            raise BadInputs(f"image_grid_thw must be positive integers [images, 3], not {thw.dtype} {thw.shape}")
        if (thw[:, 0] != 1).any():
            raise BadInputs(f"image_grid_thw has a first column of {thw[:, 0].tolist()}; videos are not supported")
        grids = [(int(height), int(width)) for _, height, width in thw]
        if any(height % c.merge or width % c.merge for height, width in grids):
            raise BadInputs(f"image_grid_thw has grids {grids}; both sides must be multiples of merge = {c.merge}")
        wanted = (sum(height * width for height, width in grids), c.channels * c.temporal * c.patch**2)
        if pixel_values.shape != wanted:
            raise BadInputs(f"image_grid_thw {grids} asks for pixel_values {wanted}, found {pixel_values.shape}")
        return grids


def _summed_patches(params: Params, channels: int, frames: int, grey: bool) -> Params:
    """Parameters whose patch projection takes one frame in place of ``frames`` equal ones, and one channel if ``grey``.

    Rows of the kernel (and of an adapter's first factor) lie by channel, frame, row, column. Not below
    float32: the sum would be rounded.
    """

    def summed(leaf_DE: Array) -> Array:
        leaf_CTNE = leaf_DE.reshape(channels, frames, -1, leaf_DE.shape[-1])
        return jnp.sum(leaf_CTNE, axis=(0, 1) if grey else 1).reshape(-1, leaf_DE.shape[-1])

    patch = {
        name: summed(leaf) if name in ("kernel", "kernel_lora_a") else leaf
        for name, leaf in params["vision"]["patch"].items()
    }
    return {**params, "vision": {**params["vision"], "patch": patch}}


@partial(jax.jit, static_argnames=("model", "grid"))
def _encode(model: QwenModel, params: Params, patches_NPD: Array, grid: tuple[int, int]) -> Features:
    return model.encode_patches(params, patches_NPD, grid)
