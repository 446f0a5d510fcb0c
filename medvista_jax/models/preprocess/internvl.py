"""Images for InternVL3 (the ``-hf`` layout): a grid of tiles of nearly the image's shape, and a thumbnail."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array
from medvista_jax.models.images import internvl_pixels
from medvista_jax.models.pillow import Plan, plan, resize
from medvista_jax.models.preprocess.hub_config import CLIP_MEAN, CLIP_STD, mean_and_std, read_image_config
from medvista_jax.models.preprocess.pixels import on_canvas, to_rgb


@dataclasses.dataclass(frozen=True)
class InternVLImageConfig:
    """Settings of the hub's ``GotOcr2ImageProcessor`` as ``InternVLProcessor`` drives it.

    Attributes:
      tile: height and width of a tile.
      crop: whether an image is cut into tiles; else it is one tile.
      min_tiles, max_tiles: bounds of the number of tiles, the thumbnail not counted.
      resample: Pillow's number of the filter.
      mean, std: one number a colour.
    """

    tile: tuple[int, int] = (384, 384)
    crop: bool = True
    min_tiles: int = 1
    max_tiles: int = 12
    resample: int = 3
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def from_hub(cls, folder: str | Path, crop: bool = True) -> InternVLImageConfig:
        """From ``preprocessor_config.json`` or ``processor_config.json``.

        Args:
          crop: the files' ``crop_to_patches`` is false in the released checkpoints, and the whole processor cuts all
            the same: it asks for tiles in every call. So do we; False gives what the image processor does alone.

        Raises:
          FileNotFoundError, ValueError: naming the file and what is wrong with it.
        """
        settings, path = read_image_config(folder, ("GotOcr2ImageProcessor",))
        if not settings.get("do_resize", True) and not crop:
            raise ValueError(f"{path}: do_resize is false; the vision tower takes tiles of one size")
        size = settings.get("size", {"height": cls.tile[0], "width": cls.tile[1]})
        if not {"height", "width"} <= size.keys():
            raise ValueError(f"{path}: size is {size}; it must hold height and width, in pixels of a tile")
        mean, std = mean_and_std(settings, cls.mean, cls.std)
        return cls(
            tile=(int(size["height"]), int(size["width"])),
            crop=crop,
            min_tiles=settings.get("min_patches", cls.min_tiles),
            max_tiles=settings.get("max_patches", cls.max_tiles),
            resample=settings.get("resample", cls.resample),
            mean=mean,
            std=std,
        )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tiles for an image: of all grids allowed, the one whose shape is nearest.

        Of grids equally near, a larger one (or, of as many tiles, a wider one) is taken as long as the image has more
        than half its pixels.
        """
        if not self.crop or self.max_tiles <= 1:
            return 1, 1
        best, least = (1, 1), float("inf")
        for rows, columns in _grids(self.min_tiles, self.max_tiles):
            off = abs(width / height - columns / rows)
            filled = height * width > 0.5 * self.tile[0] * self.tile[1] * rows * columns
            if off < least or (off == least and filled):
                best, least = (rows, columns), off
        return best

    def tiles(self, height: int, width: int) -> int:
        """Tiles of an image, the thumbnail counted."""
        rows, columns = self.grid(height, width)
        return rows * columns + (rows * columns > 1)


@functools.lru_cache(maxsize=64)
def _grids(fewest: int, most: int) -> list[tuple[int, int]]:
    """Rows and columns of every grid with ``fewest`` to ``most`` tiles: by number of tiles, then by columns."""
    grids = [(rows, columns) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    return sorted(
        (grid for grid in grids if fewest <= grid[0] * grid[1]), key=lambda grid: (grid[0] * grid[1], grid[1])
    )


@functools.partial(jax.jit, static_argnames=("config",))
def _tiles(canvas_YXC: Array, plans: tuple[Plan, ...], config: InternVLImageConfig) -> Array:
    height, width = config.tile
    tiles = []
    for shown in plans:
        shown_hwC = resize(canvas_YXC, shown)
        rows, columns = shown_hwC.shape[0] // height, shown_hwC.shape[1] // width
        grid = shown_hwC.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
        tiles.append(grid.reshape(rows * columns, height, width, 3))
    return internvl_pixels(jnp.concatenate(tiles), config.mean, config.std)


def internvl_image(image: Any, config: InternVLImageConfig, grid: tuple[int, int] | None = None) -> Array:
    """One image's tiles row by row, then its thumbnail where there is more than one: float32 ``[tiles, 3, h, w]``.

    Args:
      image: see :func:`medvista_jax.models.preprocess.pixels.to_rgb`.
      grid: rows and columns of tiles to cut it into; by default ``config.grid`` of its size, as the hub does.

    Raises:
      ValueError: an image that is not 8-bit.
    """
    rgb_YXC = to_rgb(image)
    size, canvas_YXC = rgb_YXC.shape[:2], on_canvas(rgb_YXC)
    rows, columns = config.grid(*size) if grid is None else grid
    shown = [(rows * config.tile[0], columns * config.tile[1]), config.tile][: 1 + (rows * columns > 1)]
    plans = tuple(plan(size, out, config.resample, canvas_YXC.shape[:2]) for out in shown)
    return _tiles(canvas_YXC, plans, config)


def internvl_inputs(images: Sequence[Any], config: InternVLImageConfig) -> tuple[np.ndarray, np.ndarray]:
    """Images as transformers' models take them.

    Returns:
      pixel_values, float32 ``[tiles of all images, 3, h, w]``, and how many tiles each image has, int64 ``[images]``.
    """
    tiles = [np.asarray(internvl_image(image, config)) for image in images]
    values = np.concatenate([np.zeros((0, 3, *config.tile), np.float32), *tiles])
    return values, np.array([len(tile) for tile in tiles], np.int64)
