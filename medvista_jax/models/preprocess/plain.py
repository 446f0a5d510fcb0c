"""Images shown whole at one size: what the packaged 157M model's DINOv2 takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medvista_jax.core.types import Array
from medvista_jax.models.images import normalise
from medvista_jax.models.pillow import Plan, resize
from medvista_jax.models.preprocess.hub_config import IMAGENET_MEAN, IMAGENET_STD, mean_and_std, read_image_config
from medvista_jax.models.preprocess.pixels import planned


@dataclasses.dataclass(frozen=True)
class PlainImageConfig:
    """Settings of the hub's ``BitImageProcessor`` or ``ViTImageProcessor`` where it resizes and crops nothing away.

    Attributes:
      size: height and width that every image is shown at, whatever its shape.
      resample: Pillow's number of the filter.
      mean, std: one number a colour.
    """

    size: tuple[int, int] = (224, 224)
    resample: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def from_hub(cls, folder: str | Path) -> PlainImageConfig:
        """From ``preprocessor_config.json`` or ``processor_config.json``.

        Raises:
          FileNotFoundError, ValueError: naming the file and what is wrong with it; a processor that crops is refused.
        """
        settings, path = read_image_config(folder, ("BitImageProcessor", "ViTImageProcessor"))
        size = settings.get("size", {})
        crops = settings.get("do_center_crop", settings.get("image_processor_type", "").startswith("Bit"))
        if crops or not settings.get("do_resize", True) or not {"height", "width"} <= size.keys():
            raise ValueError(
                f"{path}: the whole image must be shown at one size: do_center_crop must be false, do_resize true, and "
                f"size must hold height and width; it is {size}"
            )
        mean, std = mean_and_std(settings, cls.mean, cls.std)
        shown = int(size["height"]), int(size["width"])
        return cls(size=shown, resample=settings.get("resample", cls.resample), mean=mean, std=std)


@functools.partial(jax.jit, static_argnames=("config",))
def _pixels(canvas_YXC: Array, plan: Plan, config: PlainImageConfig) -> Array:
    return normalise(resize(canvas_YXC, plan)[None], config.mean, config.std)[0].transpose(2, 0, 1)


def plain_inputs(images: Sequence[Any], config: PlainImageConfig) -> np.ndarray:
    """Images as transformers' Dinov2 takes them: pixel_values, float32 ``[images, 3, h, w]``.

    Args:
      images: see :func:`medvista_jax.models.preprocess.pixels.to_rgb`.

    Raises:
      ValueError: an image that is not 8-bit.
    """
    pixels = [_pixels(*planned(image, config.size, config.resample), config) for image in images]
    return np.stack([np.asarray(shown) for shown in pixels]) if pixels else np.zeros((0, 3, *config.size), np.float32)
