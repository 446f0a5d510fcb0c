"""Images for Qwen2.5-VL and Qwen3-VL: a size that patches divide, and patches."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medvista_jax.core.types import Array
from medvista_jax.models.images import qwen_patches
from medvista_jax.models.pillow import Plan, resize
from medvista_jax.models.preprocess.hub_config import CLIP_MEAN, CLIP_STD, mean_and_std, read_image_config
from medvista_jax.models.preprocess.pixels import planned, to_rgb

MOST_ELONGATED = 200
"""The longest side of an image, in units of its shortest."""


@dataclasses.dataclass(frozen=True)
class QwenImageConfig:
    """Settings of the hub's ``Qwen2VLImageProcessor``, which serves Qwen2.5-VL and Qwen3-VL.

    Attributes:
      patch, merge, temporal: pixels a patch, patches a side of a merged block, equal frames of a still image.
      min_pixels, max_pixels: bounds of height times width after the resize.
      resample: Pillow's number of the filter.
      mean, std: one number a colour.
    """

    patch: int = 14
    merge: int = 2
    temporal: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    resample: int = 3
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def from_hub(cls, folder: str | Path) -> QwenImageConfig:
        """From ``preprocessor_config.json`` or ``processor_config.json``.

        Raises:
          FileNotFoundError, ValueError: naming the file and what is wrong with it.
        """
        processors = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor", "Qwen3VLImageProcessor")
        settings, path = read_image_config(folder, processors)
        if not settings.get("do_resize", True):
            raise ValueError(f"{path}: do_resize is false; patches need a size that they divide")
        size = settings.get("size", {"shortest_edge": cls.min_pixels, "longest_edge": cls.max_pixels})
        low = settings.get("min_pixels", size.get("shortest_edge", size.get("min_pixels")))
        high = settings.get("max_pixels", size.get("longest_edge", size.get("max_pixels")))
        if low is None or high is None:
            raise ValueError(f"{path}: size is {size}; it must hold shortest_edge and longest_edge, in pixels of area")
        mean, std = mean_and_std(settings, cls.mean, cls.std)
        return cls(
            patch=settings.get("patch_size", cls.patch),
            merge=settings.get("merge_size", cls.merge),
            temporal=settings.get("temporal_patch_size", cls.temporal),
            min_pixels=int(low),
            max_pixels=int(high),
            resample=settings.get("resample", cls.resample),
            mean=mean,
            std=std,
        )

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The size that an image is shown at: multiples of a block, an area within the bounds, nearly its shape.

        Raises:
          ValueError: when one side is more than 200 times the other.
        """
        if max(height, width) > MOST_ELONGATED * min(height, width):
            raise ValueError(
                f"an image of {height}x{width} pixels: one side is more than {MOST_ELONGATED} times the other, and "
                "the model was not made for that. Cut it into shorter pieces"
            )
        block = self.patch * self.merge
        sides = [round(side / block) * block for side in (height, width)]
        if math.prod(sides) > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            sides = [max(block, math.floor(side / shrink / block) * block) for side in (height, width)]
        elif math.prod(sides) < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            sides = [math.ceil(side * grow / block) * block for side in (height, width)]
        return sides[0], sides[1]

    def grid(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Frames, rows and columns of patches of an image shown at ``size``."""
        return 1, size[0] // self.patch, size[1] // self.patch

    def tokens(self, size: tuple[int, int]) -> int:
        """Embeddings that an image shown at ``size`` costs."""
        return math.prod(self.grid(size)) // self.merge**2


@functools.partial(jax.jit, static_argnames=("config",))
def _patches(canvas_YXC: Array, plan: Plan, config: QwenImageConfig) -> Array:
    view_1hwC = resize(canvas_YXC, plan)[None]
    return qwen_patches(view_1hwC, config.patch, config.merge, config.temporal, config.mean, config.std)[0]


def qwen_image(image: Any, config: QwenImageConfig, size: tuple[int, int] | None = None) -> Array:
    """One image's patches, computed on the device: float32 ``[patches, 3 * temporal * patch * patch]``.

    Args:
      image: see :func:`medvista_jax.models.preprocess.pixels.to_rgb`.
      size: a bucket to show it at; by default ``config.fit`` of its size, as the hub does. A program is compiled for
        every pair of canvas and size, so give buckets where many images come.

    Raises:
      ValueError: an image that is not 8-bit or too elongated, or a size that blocks do not divide.
    """
    if size is None:
        image = to_rgb(image)
        size = config.fit(*image.shape[:2])
    return _patches(*planned(image, size, config.resample), config)


def qwen_inputs(
    images: Sequence[Any], config: QwenImageConfig, sizes: Sequence[tuple[int, int] | None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images as transformers' models take them.

    Returns:
      pixel_values, float32 ``[patches of all images, 3 * temporal * patch * patch]``, and image_grid_thw, int64
      ``[images, 3]``: frames, rows, columns of patches.
    """
    images = [to_rgb(image) for image in images]
    sizes = [None] * len(images) if sizes is None else sizes
    shown = [config.fit(*rgb.shape[:2]) if size is None else size for rgb, size in zip(images, sizes, strict=True)]
    patches = [qwen_image(rgb, config, size) for rgb, size in zip(images, shown, strict=True)]
    width = 3 * config.temporal * config.patch**2
    values = np.concatenate([np.zeros((0, width), np.float32), *map(np.asarray, patches)])
    return values, np.array([config.grid(size) for size in shown], np.int64).reshape(-1, 3)
