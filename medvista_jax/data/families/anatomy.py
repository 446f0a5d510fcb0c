"""Questions about brain slices and about the whole picture: plane, modality, side, structures."""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage

from medvista_jax.data.canvas import draw_ring, to_frame
from medvista_jax.data.concepts import CONCEPT, STRUCTURES, structure_ids
from medvista_jax.data.families.nuclei import nuclei_base
from medvista_jax.data.images import fields
from medvista_jax.data.item import Draft
from medvista_jax.data.pool import Base, Pool, Rng, place_point
from medvista_jax.data.splits import PLANES

MODALITIES = ("mr", "ct", "film", "fundus", "histology", "fluorescence")
VISIBLE_PIXELS = 60
"""A structure counts as visible from this area on, and as absent when it has no pixel within two
millimetres.
"""

LARGE_PIXELS = 80
"""Slices that show a structure with this area may have a marker put into it."""


def spoken(options: tuple[str, ...]) -> str:
    """Options as a question lists them: ``a, b or c``."""
    return ", ".join(options[:-1]) + " or " + options[-1]


def draw_plane(pool: Pool, rng: Rng) -> Draft:
    """In which plane was the brain cut? The answer is drawn first, hence uniform."""
    answer = PLANES[rng.integers(3)]
    base = pool.brain(rng, answer)
    question = f"Which plane is this slice? {spoken(PLANES)}"
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, PLANES, answer)


def draw_modality(pool: Pool, rng: Rng) -> Draft:
    """What kind of image is it? The answer is drawn first, then one of its images."""
    answer = MODALITIES[rng.integers(len(MODALITIES))]
    if answer == "fluorescence":
        base = nuclei_base(pool, rng)
    elif answer == "mr" and rng.random() < 0.7:
        base = pool.brain(rng)
    else:
        names = [name for name in pool.field_names if fields()[name].modality == answer]
        base = pool.field(rng, names[rng.integers(len(names))])
    question = f"What kind of image is this? {spoken(MODALITIES)}"
    return Draft(answer, base.source, base.pixels, base.concepts, question, MODALITIES, answer)


def draw_side(pool: Pool, rng: Rng) -> Draft:
    """Is the ring marker in the left or right half of the *image* as displayed? (Not the patient's left.)"""
    options = ("left", "right")
    answer = options[rng.integers(2)]
    low, high = (12, 114) if answer == "left" else (142, 244)
    while True:
        base = pool.any_tissue(rng)
        point = place_point(rng, base.tissue, 12, low, high)
        if point:
            break
    draw_ring(base.pixels, base.concepts, *point, CONCEPT["marker"])
    question = "On which side of the image is the marker? left or right"
    target = to_frame(point[0] - 10, point[1] - 10, point[0] + 10, point[1] + 10)
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, options, answer, (target,))


class _Structures:
    """Slices of a pool by what they show; computed once per pool."""

    def __init__(self, pool: Pool):
        near = {key: pool.near(*key) for key in pool.areas}
        self.visible: dict[tuple[str, str], list[int]] = {}
        self.absent: dict[tuple[str, str], list[int]] = {}
        self.large: dict[str, list[tuple[str, int]]] = {name: [] for name in STRUCTURES}
        for name in STRUCTURES:
            ids = list(structure_ids(name))
            for (plane, millimetre), area in pool.areas.items():
                count = int(area[ids].sum())
                if count >= VISIBLE_PIXELS:
                    self.visible.setdefault((name, plane), []).append(millimetre)
                if count >= LARGE_PIXELS:
                    self.large[name].append((plane, millimetre))
                if near[plane, millimetre][ids].sum() == 0:
                    self.absent.setdefault((name, plane), []).append(millimetre)
        self.both = [key for key in self.visible if key in self.absent]
        self.named = tuple(name for name in STRUCTURES if self.large[name])


@functools.lru_cache(maxsize=8)
def _structures(pool: Pool) -> _Structures:
    return _Structures(pool)


def _extent(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Bounding slices of a mask, None when it is empty."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def draw_structure_visible(pool: Pool, rng: Rng) -> Draft:
    """Is a named structure in this slice? Structure and plane are drawn first, then yes or no, then a
    slice.
    """
    table = _structures(pool)
    name, plane = table.both[rng.integers(len(table.both))]
    options = ("yes", "no")
    answer = options[rng.integers(2)]
    choices = (table.visible if answer == "yes" else table.absent)[name, plane]
    base = pool.brain(rng, plane, choices[rng.integers(len(choices))])
    targets = ()
    if answer == "yes":
        mask = np.isin(base.concepts, structure_ids(name))
        there = _extent(mask)
        parts, _ = ndimage.label(mask[there])
        sizes = np.bincount(parts.ravel())[1:]
        found = ndimage.find_objects(parts)
        keep = [index for index in np.argsort(-sizes)[:2] if sizes[index] >= 20] or [int(sizes.argmax())]
        top, left = there[0].start, there[1].start
        targets = tuple(
            to_frame(
                top + found[i][0].start - 8,
                left + found[i][1].start - 8,
                top + found[i][0].stop + 8,
                left + found[i][1].stop + 8,
            )
            for i in keep
        )
    question = f"Is the {name} visible? yes or no"
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, options, answer, targets)


def _core(base: Base, name: str) -> np.ndarray:
    """int [N, 2]: pixels (y, x) well inside a structure and far enough from the border for the ring."""
    mask = np.isin(base.concepts, structure_ids(name))
    there = _extent(mask)
    if there is None:
        return np.zeros((0, 2), int)
    cut = np.pad(mask[there], 1)
    for size in (5, 3):
        core = np.argwhere(ndimage.minimum_filter(cut, size, mode="constant"))
        core = core + (there[0].start - 1, there[1].start - 1)
        core = core[((core >= 10) & (core < 246)).all(1)]
        if len(core):
            return core
    return core


def draw_structure_at_marker(pool: Pool, rng: Rng) -> Draft:
    """Which structure is in the middle of the ring? Answer and three wrong options are drawn before the
    slice.
    """
    table = _structures(pool)
    order = [table.named[i] for i in rng.permutation(len(table.named))[:4]]
    answer = order[0]
    options = tuple(order[i] for i in rng.permutation(4))
    core = np.zeros((0, 2), int)
    while not len(core):
        plane, millimetre = table.large[answer][rng.integers(len(table.large[answer]))]
        base = pool.brain(rng, plane, millimetre)
        core = _core(base, answer)
    y, x = (int(value) for value in core[rng.integers(len(core))])
    draw_ring(base.pixels, base.concepts, y, x, CONCEPT["marker"])
    question = f"Which structure is at the marker? {spoken(options)}"
    target = to_frame(y - 24, x - 24, y + 24, x + 24)
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, options, answer, (target,))
