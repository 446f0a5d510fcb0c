"""Random views of atlas images with dense labels: the batches of the perception stage."""

from __future__ import annotations

import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.data.questions import QuestionPool
from medvista_jax.learning.perception import PerceptionBatch


def perception_batch(pool: QuestionPool, rows: np.ndarray, views: int, rng: np.random.Generator) -> PerceptionBatch:
    """A view of (nearly) the whole image and ``views - 1`` random crops, most of them near a target where there is one.

    Crops measure 48 to 128 canvas pixels a side, most of them near 64, where a view shows every pixel. Images with a
    window that shows more get it in half of the crops.
    """
    canvas = pool.pixels.shape[1]
    boxes = np.zeros((len(rows), views, 4), np.float32)
    windows = np.repeat(pool.window[rows][:, None], views, axis=1)
    for place, row in enumerate(rows):
        item = pool.items[row]
        side = 1.0 if rng.random() < 0.5 else rng.uniform(0.75, 1.0)
        low = rng.uniform(0, 1 - side, 2)
        boxes[place, 0] = (*low, *(low + side))
        for view in range(1, views):
            side = (48 + 80 * rng.random() ** 3) / canvas
            centre = rng.random(2)
            if item.targets and rng.random() < 0.7:
                target = np.asarray(item.targets[rng.integers(len(item.targets))], np.float32) / FRAME
                middle = (target[:2] + target[2:]) / 2
                centre = middle + rng.uniform(-0.5, 0.5, 2) * side
            low = np.clip(centre - side / 2, 0, 1 - side)
            boxes[place, view] = (*low, *(low + side))
            if item.good_window is not None and rng.random() < 0.5:
                windows[place, view] = item.good_window
    return PerceptionBatch(
        pixels_PYXC=pool.pixels[rows],
        concepts_PYX=np.stack([pool.items[row].concepts for row in rows]),
        window_B2=windows.reshape(-1, 2),
        box_B4=boxes.reshape(-1, 4),
    )
