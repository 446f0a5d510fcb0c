"""Questions about fluorescent nuclei with instance masks: how many, and which is larger."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from medvista_jax.data.canvas import CANVAS, draw_frame, draw_plate, letter_places, to_frame
from medvista_jax.data.concepts import CONCEPT
from medvista_jax.data.item import Draft
from medvista_jax.data.pool import Base, Pool, Rng

PixelBox = tuple[int, int, int, int]

BOX = 64
"""Side of the marked box, in pixels: the same for every count, so that it says nothing."""

COUNTS = ("1", "2", "3", "4")
SMALLEST = 60
"""Masks with fewer pixels are debris and are never lettered."""

RATIO = 1.3
"""The larger of two marked nuclei has at least this many times the area of the other."""

APART = 44
"""Least distance, in y or in x, of two lettered nuclei, so that no letter lies between both."""

_OVERHANG = 48

UNCLEAR = (0.2, 0.8)
"""A nucleus counts when more than half of it is in the box. Boxes that hold between these shares of any are
not used, nor those that touch a nucleus which the border of the region cuts."""


def _inside(mask: np.ndarray, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """int64 [len(tops), len(lefts)]: pixels of ``mask`` in the box whose corner is (top, left) relative to
    it.
    """
    total = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    a, b = (np.clip(at, 0, mask.shape[0]) for at in (tops, tops + BOX))
    c, d = (np.clip(at, 0, mask.shape[1]) for at in (lefts, lefts + BOX))
    return total[np.ix_(b, d)] - total[np.ix_(a, d)] - total[np.ix_(b, c)] + total[np.ix_(a, c)]


class _Nuclei:
    """What one split's region of the nuclei image offers; computed once per pool.

    Attributes:
      labels: uint16 [Y, X] instances of the region.
      boxes: count (as text) to int [N, 2] corners of boxes that hold that many nuclei beyond doubt.
      objects: int [K, 4] bounding boxes y0, x0, y1, x1 of nuclei that the region holds whole and that touch
        no other: a letter beside one of two that touch could mean either.
      areas: int [K] pixels of those nuclei.
    """

    def __init__(self, pool: Pool):
        self.labels = pool.view("nuclei").labels
        height, width = self.labels.shape
        objects, areas = [], []
        rows, columns = height - BOX + 1, width - BOX + 1
        count, unclear = np.zeros((rows, columns), np.int32), np.zeros((rows, columns), bool)
        for index, there in enumerate(ndimage.find_objects(self.labels), 1):
            if there is None:
                continue
            y0, y1, x0, x1 = there[0].start, there[0].stop, there[1].start, there[1].stop
            mask = self.labels[there] == index
            whole = y0 > 0 and x0 > 0 and y1 < height and x1 < width
            # Boxes with a corner in this range touch the nucleus; share is how much of it each of them holds.
            top, left = max(0, y0 - BOX + 1), max(0, x0 - BOX + 1)
            bottom, right = min(rows, y1), min(columns, x1)
            if bottom > top and right > left:
                share = _inside(mask, np.arange(top, bottom) - y0, np.arange(left, right) - x0) / mask.sum()
                near = slice(top, bottom), slice(left, right)
                count[near] += share > 0.5
                unclear[near] |= ((share > UNCLEAR[0]) & (share < UNCLEAR[1])) | ((share > 0) & (not whole))
            wide = tuple(slice(max(0, t.start - 3), t.stop + 3) for t in there)
            around = ndimage.binary_dilation(self.labels[wide] == index, iterations=3)
            alone = not (around & (self.labels[wide] > 0) & (self.labels[wide] != index)).any()
            if whole and alone and mask.sum() >= SMALLEST:
                objects.append((y0, x0, y1, x1))
                areas.append(int(mask.sum()))
        self.objects, self.areas = np.array(objects), np.array(areas)
        self.boxes = {name: np.argwhere(~unclear & (count == int(name))) for name in COUNTS}
        wanting = [name for name, found in self.boxes.items() if not len(found)]
        if wanting:
            raise ValueError(f"{pool.split}: no box with {', '.join(wanting)} nuclei in its region")


@functools.lru_cache(maxsize=8)
def _nuclei(pool: Pool) -> _Nuclei:
    return _Nuclei(pool)


def _cut(pool: Pool, rng: Rng, within: PixelBox, margin: int) -> tuple[Base, Callable[[PixelBox], PixelBox]]:
    """A canvas that holds ``within`` (region pixels y0, x0, y1, x1) with ``margin``, turned and mirrored at
    random.

    Returns the base and a function from region boxes to canvas boxes.
    """
    view = pool.view("nuclei")
    corner = []
    for low, high, size in zip(within[:2], within[2:], view.pixels.shape, strict=True):
        first = max(high + margin - CANVAS, -_OVERHANG)
        last = max(first, min(low - margin, size - CANVAS + _OVERHANG))
        corner.append(int(rng.integers(first, last + 1)))
    top, left = corner
    quarter, mirror = int(rng.integers(4)), bool(rng.integers(2))
    rows = slice(max(0, top), max(0, top + CANVAS))
    columns = slice(max(0, left), max(0, left + CANVAS))

    def lay(array: np.ndarray) -> np.ndarray:
        piece = array[rows, columns]
        out = np.zeros((CANVAS, CANVAS), array.dtype)
        y, x = max(0, -top), max(0, -left)
        out[y : y + piece.shape[0], x : x + piece.shape[1]] = piece
        out = np.rot90(out, quarter)
        return np.ascontiguousarray(out[:, ::-1] if mirror else out)

    def move(box: PixelBox) -> PixelBox:
        y0, x0, y1, x1 = box[0] - top, box[1] - left, box[2] - top, box[3] - left
        for _ in range(quarter):  # np.rot90 sends (y, x) to (CANVAS - 1 - x, y)
            y0, x0, y1, x1 = CANVAS - x1, y0, CANVAS - x0, y1
        if mirror:
            x0, x1 = CANVAS - x1, CANVAS - x0
        return int(y0), int(x0), int(y1), int(x1)

    concepts = lay(view.concepts)
    base = Base(lay(view.pixels), concepts, concepts > 0, view.modality, pool.source("nuclei", top, left))
    return base, move


def nuclei_base(pool: Pool, rng: Rng) -> Base:
    """A canvas of nuclei, nothing marked."""
    height, width = pool.view("nuclei").pixels.shape
    y, x = int(rng.integers(height - BOX)), int(rng.integers(width - BOX))
    return _cut(pool, rng, (y, x, y + BOX, x + BOX), 8)[0]


def draw_nuclei_count(pool: Pool, rng: Rng) -> Draft:
    """How many nuclei does the frame hold? The count is drawn first; see ``UNCLEAR``."""
    answer = COUNTS[rng.integers(len(COUNTS))]
    corners = _nuclei(pool).boxes[answer]
    y, x = (int(value) for value in corners[rng.integers(len(corners))])
    base, move = _cut(pool, rng, (y, x, y + BOX, x + BOX), 6)
    box = move((y, x, y + BOX, x + BOX))
    draw_frame(base.pixels, base.concepts, box, CONCEPT["frame"])
    question = "How many nuclei are in the box? 1, 2, 3 or 4"
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, COUNTS, answer, (to_frame(*box),))


def draw_larger(pool: Pool, rng: Rng) -> Draft:
    """Which of two lettered nuclei has the larger area in its mask? The letters are dealt by a coin."""
    table = _nuclei(pool)
    while True:
        i, j = rng.integers(len(table.areas), size=2)
        small, large = sorted((int(i), int(j)), key=lambda k: table.areas[k])
        if table.areas[large] < RATIO * table.areas[small]:
            continue
        pair = table.objects[[small, large]]
        within = (*pair[:, :2].min(0), *pair[:, 2:].max(0))
        if max(within[2] - within[0], within[3] - within[1]) > CANVAS - 56:
            continue
        if np.abs(pair[0, :2] - pair[1, :2]).max() < APART:
            continue
        options = ("a", "b")
        answer = options[rng.integers(2)]
        base, move = _cut(pool, rng, tuple(int(value) for value in within), 24)
        boxes = [move(tuple(int(value) for value in box)) for box in pair]
        plates = letter_places(boxes, boxes, bool(rng.integers(2)))
        if plates:
            break
    letters = ("b", "a") if answer == "a" else ("a", "b")
    for letter, (y, x) in zip(letters, plates, strict=True):
        draw_plate(base.pixels, base.concepts, y, x, letter, CONCEPT[f"plate {letter}"])
    named = dict(zip(letters, boxes, strict=True))
    targets = tuple(to_frame(b[0] - 14, b[1] - 14, b[2] + 14, b[3] + 14) for b in (named["a"], named["b"]))
    question = "Which marked nucleus is larger? a or b"
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, options, answer, targets)
