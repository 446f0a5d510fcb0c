"""Is there an implanted low-contrast lesion in the CT? Needs a narrower display window, by construction.

The default window spans 4080 stored units, so one 8-bit display level is exactly 16 HU. The lesion moves each
pixel only *within* its level: a value 16g + r becomes 16g + r' with r' near +6, and never touches a level's
edge. Rounded to 8 bits the default view is therefore bit-identical with and without the lesion. The window's
lower end is chosen from the mean of the place (lesion or not), so that ordinary tissue sits at r = -4 and has
ten HU to rise. A view that is *not* rounded to 8 bits still holds the ten HU, as a quarter to two thirds of a
level: whoever shows the default window must round.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import ndimage

from medvista_jax.data.canvas import CANVAS, to_frame
from medvista_jax.data.concepts import CONCEPT
from medvista_jax.data.images import HU_OFFSET
from medvista_jax.data.item import Draft
from medvista_jax.data.pool import Pool, Rng

STEP = 16
"""HU per 8-bit level of the default window."""

RISE = 6
"""Where in its level a lesion pixel ends up, from -8 to 8."""

_REACH = 18
_EVEN = 41  # side of the neighbourhood that must be even, or the image's own edges would hide the lesion
_SOURCES = ("ct-head", "ct-abdomen")


def default_window(mean: int) -> tuple[float, float]:
    """Default window (black, white) for a place of mean stored value ``mean``: 255 levels of 16, mean at
    level - 4.
    """
    low = float((mean + 4) % STEP - STEP)
    return low, low + 255.0 * STEP


def add_lesion(stored: np.ndarray, low: float, centre: tuple[int, int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Raises a soft disc by about ten HU without changing any default display level.

    Args:
      stored: uint16 [256, 256], HU + 1024.
      low: lower end of the default window.
      centre, radius: canvas pixels.

    Returns:
      A changed copy, and bool [256, 256] of the lesion's body.
    """
    y, x = np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1]
    weight = np.clip((radius + 1.5 - np.hypot(y, x)) / 3.0, 0.0, 1.0)
    there = tuple(slice(c - _REACH, c + _REACH + 1) for c in centre)
    offset = stored[there].astype(np.int64) - int(low)
    level = np.rint(offset / STEP).astype(np.int64)
    rest = offset - STEP * level
    # Values on the very edge between two levels stay: arithmetic in another precision might round them
    # otherwise.
    weight = np.where(np.abs(rest) >= STEP // 2, 0.0, weight)
    raised = np.rint(rest + weight * (RISE - rest)).astype(np.int64)
    out = stored.copy()
    out[there] = (STEP * level + raised + int(low)).astype(np.uint16)
    body = np.zeros(stored.shape, bool)
    body[there] = weight > 0.5
    return out, body


@functools.lru_cache(maxsize=8)
def _places(pool: Pool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per CT: int [N, 2] centres in the view whose surroundings are even, and the mean stored value there."""
    found = {}
    for name in _SOURCES:
        view = pool.view(name)
        stored = view.stored.astype(np.float64)
        wide = ndimage.uniform_filter(stored, _EVEN)
        spread = np.sqrt(np.maximum(ndimage.uniform_filter(stored * stored, _EVEN) - wide * wide, 0.0))
        mean = ndimage.uniform_filter(stored, 25)
        good = (spread < 4.0) & (mean > HU_OFFSET) & (mean < HU_OFFSET + 160)
        edge = _REACH + 4
        good[:edge] = good[-edge:] = False
        good[:, :edge] = good[:, -edge:] = False
        places = np.argwhere(good)
        if len(places) >= 500:
            found[name] = places, np.rint(mean[good]).astype(int)
    return found


def draw_lesion_ct(pool: Pool, rng: Rng) -> Draft:
    """Place, radius and windows are drawn whether or not a lesion follows; then a coin decides.

    The target box of a "no" item is where a lesion would have been.
    """
    places = _places(pool)
    name = tuple(places)[rng.integers(len(places))]
    corners, means = places[name]
    pick = int(rng.integers(len(corners)))
    (cy, cx), mean = (int(value) for value in corners[pick]), int(means[pick])
    view = pool.view(name)
    edge = _REACH + 2
    corner = []
    for centre, size in zip((cy, cx), view.stored.shape, strict=True):
        first, last = max(0, centre + edge - CANVAS), min(size - CANVAS, centre - edge)
        corner.append(int(rng.integers(first, last + 1)))
    top, left = corner
    there = slice(top, top + CANVAS), slice(left, left + CANVAS)
    pixels, concepts = view.stored[there].copy(), view.concepts[there].copy()
    centre = cy - top, cx - left
    radius = float(rng.uniform(8.0, 14.0))
    window = default_window(mean)
    good_window = mean - 20, mean + 30
    mirror = pool.split == "train" and bool(rng.integers(2))
    options = ("yes", "no")
    answer = options[rng.integers(2)]
    if answer == "yes":
        pixels, body = add_lesion(pixels, window[0], centre, radius)
        concepts[body] = CONCEPT["lesion"]
    y, x = centre
    if mirror:
        pixels, concepts, x = pixels[:, ::-1], concepts[:, ::-1], CANVAS - 1 - x
    target = to_frame(y - 20, x - 20, y + 20, x + 20)
    question = "Is there an implanted lesion? yes or no"
    source = pool.source(name, top, left)
    return Draft(
        "ct",
        source,
        pixels,
        concepts,
        question,
        options,
        answer,
        (target,),
        window=window,
        good_window=good_window,
    )
