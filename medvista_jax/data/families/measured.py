"""Which of two framed regions is brighter: true means of the pixels that the item holds."""

from __future__ import annotations

import numpy as np

from medvista_jax.data.canvas import draw_frame, draw_plate, letter_places, to_frame
from medvista_jax.data.concepts import CONCEPT
from medvista_jax.data.item import Draft
from medvista_jax.data.pool import Pool, Rng

REGION = 16
"""Side of a framed region in pixels."""

LEAST, MOST = 14.0, 90.0
"""Allowed difference of the two means, in display levels."""


def draw_brighter(pool: Pool, rng: Rng) -> Draft:
    """Two regions on tissue with means 14 to 90 levels apart; the letters are dealt by a coin afterwards."""
    while True:
        base = pool.any_tissue(rng)
        corners = rng.integers(24, 256 - 24 - REGION, (10, 2))
        means = [
            float(base.pixels[y : y + REGION, x : x + REGION].mean())
            if base.tissue[y : y + REGION : 5, x : x + REGION : 5].all()
            else -1e9
            for y, x in corners
        ]
        pair = _pair(corners, np.array(means))
        if pair is None:
            continue
        boxes = [(y, x, y + REGION, x + REGION) for y, x in (corners[k].tolist() for k in pair)]
        wide = [(b[0] - 2, b[1] - 2, b[2] + 2, b[3] + 2) for b in boxes]
        plates = letter_places(boxes, wide, bool(rng.integers(2)))
        if plates:
            break
    options = ("a", "b")
    answer = options[rng.integers(2)]
    letters = (answer, "b" if answer == "a" else "a")  # the first box of the pair is the brighter one
    for letter, box, (y, x) in zip(letters, boxes, plates, strict=True):
        draw_frame(base.pixels, base.concepts, box, CONCEPT["frame"])
        draw_plate(base.pixels, base.concepts, y, x, letter, CONCEPT[f"plate {letter}"])
    named = dict(zip(letters, boxes, strict=True))
    targets = tuple(to_frame(*named[letter]) for letter in options)
    question = "Which marked region is brighter? a or b"
    return Draft(base.modality, base.source, base.pixels, base.concepts, question, options, answer, targets)


def _pair(corners: np.ndarray, means: np.ndarray) -> tuple[int, int] | None:
    """Indices (brighter, darker) of the first pair that is far enough apart in place and in brightness, else
    None.
    """
    for i in range(len(means)):
        for j in range(i):
            difference = means[i] - means[j]
            if LEAST <= abs(difference) <= MOST and np.abs(corners[i] - corners[j]).max() >= 48:
                return (i, j) if difference > 0 else (j, i)
    return None
