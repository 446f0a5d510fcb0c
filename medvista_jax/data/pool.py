"""Bases of one split: brain slices and regions of single images, laid on a 256 x 256 canvas.

A pool holds no randomness of its own; every draw takes the item's generator.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from PIL import Image
from scipy import ndimage

from medvista_jax.data import images
from medvista_jax.data.canvas import CANVAS
from medvista_jax.data.concepts import CONCEPTS
from medvista_jax.data.implants import MARGIN, SIDE, snap
from medvista_jax.data.splits import PLANES, region, slab_split

Rng = np.random.Generator

MINIMUM_BRAIN = 4000
"""Slices with less brain than this many pixels are left out."""

MAGNIFICATION = 1.3
"""Canvas pixels a millimetre of brain: a slice fills the canvas, so that where a target lies is worth knowing."""

_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
_SHIFT = 10


@dataclasses.dataclass
class Base:
    """A canvas to ask about; its arrays are fresh copies that the caller may draw into.

    Attributes:
      pixels: uint8 [256, 256] (uint16 stored units from ``Pool.ct``).
      concepts: uint8 [256, 256].
      tissue: bool [256, 256], where targets and marks may lie.
      modality, source: as in ``AtlasItem``.
    """

    pixels: np.ndarray
    concepts: np.ndarray
    tissue: np.ndarray
    modality: str
    source: str


def _enlarge(page: np.ndarray, linear: bool) -> np.ndarray:
    """A slice on the canvas's finer grid; labels keep the nearest value."""
    height, width = (round(side * MAGNIFICATION) for side in page.shape)
    how = Image.Resampling.BILINEAR if linear else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(page)).resize((width, height), how))


def _lay(array: np.ndarray, top: int, left: int) -> np.ndarray:
    """``array`` on an empty canvas with its corner at (top, left), which may lie outside; the overhang is
    cut.
    """
    out = np.zeros((CANVAS, CANVAS), array.dtype)
    height, width = array.shape
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(CANVAS, top + height), min(CANVAS, left + width)
    out[y0:y1, x0:x1] = array[y0 - top : y1 - top, x0 - left : x1 - left]
    return out


class Pool:
    """Everything that one split may show.

    Attributes:
      split: "train", "validation" or "test".
      volume: the split's brain template.
      slices: plane to the MNI millimetres that belong to the split.
      areas: (plane, millimetre) to int64 [len(CONCEPTS)] pixel counts of its concepts.
    """

    def __init__(self, split: str):
        self.split = split
        self.volume = images.brains()["mni2009a" if split == "test" else "mni2009c"]
        self.slices: dict[str, list[int]] = {}
        self.areas: dict[tuple[str, int], np.ndarray] = {}
        # Slices are copied once: across the last axis of a volume every pixel is a cache miss, 10 ms a slice.
        self._pages: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        for plane in PLANES:
            axis = _AXIS[plane]
            pages = [np.ascontiguousarray(np.moveaxis(a, axis, 0)) for a in (self.volume.pixels, self.volume.concepts)]
            self.slices[plane] = []
            for index in range(len(pages[0])):
                millimetre = index + self.volume.origin[axis]
                if slab_split(plane, millimetre) != split:
                    continue
                area = np.bincount(pages[1][index].ravel(), minlength=len(CONCEPTS))
                if area[1:].sum() >= MINIMUM_BRAIN:
                    self.slices[plane].append(millimetre)
                    self.areas[plane, millimetre] = area
                    pixels, concepts = (stack[index].T[::-1] for stack in pages)
                    self._pages[plane, millimetre] = (_enlarge(pixels, linear=True), _enlarge(concepts, linear=False))

    def near(self, plane: str, millimetre: int) -> np.ndarray:
        """Pixel counts of concepts in the slice and its neighbours two millimetres to either side."""
        axis = _AXIS[plane]
        index = millimetre - self.volume.origin[axis]
        slab = [slice(None)] * 3
        slab[axis] = slice(max(0, index - 2), index + 3)
        return np.bincount(self.volume.concepts[tuple(slab)].ravel(), minlength=len(CONCEPTS))

    def brain(self, rng: Rng, plane: str | None = None, millimetre: int | None = None, flip: bool = True) -> Base:
        """A brain slice, shifted a little; in training also mirrored (``flip``) and with its brightness
        changed.
        """
        if plane is None:
            plane = PLANES[rng.integers(len(PLANES))]
        if millimetre is None:
            choices = self.slices[plane]
            millimetre = choices[rng.integers(len(choices))]
        pixels, concepts = self._pages[plane, millimetre]
        if flip and self.split == "train" and rng.random() < 0.5:
            pixels, concepts = pixels[:, ::-1], concepts[:, ::-1]
        if self.split == "train":
            pixels = _tone(rng)[pixels]
        height, width = pixels.shape
        down, right = rng.integers(-_SHIFT, _SHIFT + 1, 2)
        top, left = (CANVAS - height) // 2 + int(down), (CANVAS - width) // 2 + int(right)
        concepts = _lay(concepts, top, left)
        source = f"{self.volume.name}/{plane}/{millimetre:+d}"
        return Base(_lay(pixels, top, left), concepts, concepts > 0, "mr", source)

    @functools.cached_property
    def field_names(self) -> tuple[str, ...]:
        """Single images other than the nuclei."""
        return tuple(name for name in images.fields() if name != "nuclei")

    @functools.cached_property
    def _views(self) -> dict[str, images.Field]:
        """Each single image cut down to the region of this split: no draw can see beyond it."""
        views = {}
        for name, field in images.fields().items():
            y0, x0, y1, x1 = region(self.split, *field.pixels.shape)
            cut = {
                key: None if array is None else np.ascontiguousarray(array[y0:y1, x0:x1])
                for key, array in (
                    ("pixels", field.pixels),
                    ("concepts", field.concepts),
                    ("tissue", field.tissue),
                    ("stored", field.stored),
                    ("labels", field.labels),
                )
            }
            views[name] = dataclasses.replace(field, **cut)
        return views

    def view(self, name: str) -> images.Field:
        """A single image, cut down to this split's region."""
        return self._views[name]

    @functools.cached_property
    def _corners(self) -> dict[str, np.ndarray]:
        """Per image: int [N, 2] corners of canvases inside the view with much tissue: 0.45 of it, or the
        median.
        """
        corners = {}
        for name in self.field_names:
            field = self.view(name)
            height, width = field.pixels.shape
            share = ndimage.uniform_filter(field.tissue.astype(np.float32), CANVAS, mode="constant")
            half = CANVAS // 2
            inner = share[half : height - half + 1 : 4, half : width - half + 1 : 4]
            found = np.argwhere(inner >= min(0.45, float(np.median(inner)))) * 4
            corners[name] = found
        return corners

    def field(self, rng: Rng, name: str | None = None, flip: bool = True) -> Base:
        """A 256 x 256 cut of a single image at display levels; in training mirrored and with brightness
        changed.
        """
        if name is None:
            name = self.field_names[rng.integers(len(self.field_names))]
        field = self.view(name)
        corners = self._corners[name]
        top, left = (int(value) for value in corners[rng.integers(len(corners))])
        there = slice(top, top + CANVAS), slice(left, left + CANVAS)
        pixels, concepts, tissue = field.pixels[there], field.concepts[there], field.tissue[there]
        if flip and self.split == "train" and rng.random() < 0.5:
            pixels, concepts, tissue = pixels[:, ::-1], concepts[:, ::-1], tissue[:, ::-1]
        pixels = _tone(rng)[pixels] if self.split == "train" else pixels.copy()
        return Base(pixels, concepts.copy(), tissue, field.modality, self.source(name, top, left))

    def source(self, name: str, top: int, left: int) -> str:
        """Source text of a canvas whose corner is (top, left) of the view, in coordinates of the whole
        image.
        """
        y0, x0, y1, x1 = region(self.split, *images.fields()[name].pixels.shape)
        rows = f"{y0 + max(0, top)}:{min(y1, y0 + top + CANVAS)}"
        return f"{name}/{rows},{x0 + max(0, left)}:{min(x1, x0 + left + CANVAS)}"

    def any_tissue(self, rng: Rng) -> Base:
        """A brain slice six times in ten, else a single image."""
        return self.brain(rng) if rng.random() < 0.6 else self.field(rng)


@functools.cache
def _levels() -> np.ndarray:
    return np.arange(256) / 255.0


def _tone(rng: Rng) -> np.ndarray:
    """uint8 [256] table: a random gamma and gain; black stays black."""
    gamma, gain = rng.uniform(0.8, 1.25), rng.uniform(0.85, 1.08)
    return np.clip(np.rint(255.0 * gain * _levels() ** gamma), 0, 255).astype(np.uint8)


def place_square(rng: Rng, tissue: np.ndarray, away: tuple[int, int] | None = None, distance: int = 0):
    """Corner (y, x) of a target square on tissue, in phase with the thumbnail, or None after sixty tries.

    ``away`` and ``distance``: keep the larger of the two coordinate differences to another corner at least
    this.
    """
    low, high = MARGIN, CANVAS - MARGIN - SIDE
    tries = rng.integers(low, high + 1, (60, 2))
    for y, x in tries:
        y, x = snap(int(y)), snap(int(x))
        if min(y, x) < low:
            continue
        if away is not None and max(abs(y - away[0]), abs(x - away[1])) < distance:
            continue
        # Nine sample points decide most rejections without summing the square.
        if not tissue[y + 4 : y + SIDE : 12, x + 4 : x + SIDE : 12].all():
            continue
        if tissue[y : y + SIDE, x : x + SIDE].mean() >= 0.9:
            return y, x
    return None


def place_point(rng: Rng, tissue: np.ndarray, margin: int, low: int = 0, high: int = CANVAS) -> tuple[int, int] | None:
    """A tissue pixel (y, x) at least ``margin`` from the border with ``low`` <= x < ``high``, or None."""
    tries = np.stack(
        [
            rng.integers(margin, CANVAS - margin, 60),
            rng.integers(max(margin, low), min(CANVAS - margin, high), 60),
        ],
        1,
    )
    good = tries[tissue[tries[:, 0], tries[:, 1]]]
    return (int(good[0, 0]), int(good[0, 1])) if len(good) else None
