"""Random views of atlas images with dense labels: the batches of the perception stage."""

from __future__ import annotations

import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.data.concepts import CONCEPTS, OBJECTS
from medvista_jax.data.item import Box
from medvista_jax.data.questions import QuestionPool
from medvista_jax.learning.perception import PerceptionBatch

NATIVE = 64
"""Side of a crop that a view shows pixel by pixel."""

TARGETS = 2
"""Most targets of an item."""

_IS_OBJECT = np.isin(CONCEPTS, OBJECTS)


def object_in(concepts: np.ndarray, box: Box) -> int:
    """The commonest of :data:`medvista_jax.data.concepts.OBJECTS` in a box in 0…1000 of a label map; -1 for none."""
    x1, y1, x2, y2 = (round(value * concepts.shape[0] / FRAME) for value in box)
    counts = np.bincount(concepts[y1:y2, x1:x2].ravel(), minlength=len(CONCEPTS)) * _IS_OBJECT
    return int(counts.argmax()) if counts.any() else -1


def perception_batch(pool: QuestionPool, rows: np.ndarray, views: int, rng: np.random.Generator) -> PerceptionBatch:
    """A view of (nearly) the whole image and ``views - 1`` random crops, most of them near a target where there is one.

    Six crops in ten show every pixel of 64 canvas pixels a side, the others 48 to 96. Images with a
    window that shows more get it in half of the crops.
    """
    canvas = pool.images.pixels.shape[1]
    boxes = np.zeros((len(rows), views, 4), np.float32)
    targets = np.zeros((len(rows), TARGETS, 4), np.float32)
    named = np.full((len(rows), TARGETS), -1, np.int32)
    windows = np.repeat(pool.images.window[rows][:, None], views, axis=1)
    for place, row in enumerate(rows):
        item = pool.items[row]
        for slot, target in enumerate(item.targets[:TARGETS]):
            named[place, slot] = object_in(item.concepts, target)
            if named[place, slot] >= 0:
                targets[place, slot] = np.asarray(target, np.float32) / FRAME
        side = 1.0 if rng.random() < 0.5 else rng.uniform(0.75, 1.0)
        low = rng.uniform(0, 1 - side, 2)
        boxes[place, 0] = (*low, *(low + side))
        for view in range(1, views):
            side = (NATIVE if rng.random() < 0.6 else rng.uniform(0.75, 1.5) * NATIVE) / canvas
            centre = rng.random(2)
            if item.targets and rng.random() < 0.7:
                target = np.asarray(item.targets[rng.integers(len(item.targets))], np.float32) / FRAME
                middle = (target[:2] + target[2:]) / 2
                centre = middle + rng.uniform(-0.45, 0.45, 2) * side
            low = np.clip(centre - side / 2, 0, 1 - side)
            boxes[place, view] = (*low, *(low + side))
            if item.good_window is not None and rng.random() < 0.5:
                windows[place, view] = item.good_window
    return PerceptionBatch(
        pixels_PYXC=pool.images.pixels[rows],
        concepts_PYX=np.stack([pool.items[row].concepts for row in rows]),
        window_B2=windows.reshape(-1, 2),
        box_B4=boxes.reshape(-1, 4),
        targets_PR4=targets,
        named_PR=named,
    )
