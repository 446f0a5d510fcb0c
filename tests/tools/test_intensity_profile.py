"""``intensity_profile`` against ``scipy.ndimage.map_coordinates`` of order 1 in float64.

Tolerance 1e-4 of the range: places are within 1e-5 pixel of the true ones in float32, neighbours up to the range apart.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from medvista_jax.core.types import Fault
from medvista_jax.tools.intensity_profile import SAMPLES, intensity_profile
from tests.tools import scene

LINES = ((400, 300, 520, 610), (310, 620, 430, 250), (500, 500, 500, 500))
PAIR = ((20, 300, 430, 800), (600, 900, 990, 10))


@pytest.mark.parametrize("kind", ["grey", "ct", "colour"])
@pytest.mark.parametrize("view", scene.VIEWS)
def test_values_along_the_line(kind, view):
    for line in PAIR if view == "pair" else LINES:
        (source, a), (_, b) = scene.place(view, line[:2], kind), scene.place(view, line[2:], kind)
        values, places = scene.physical(kind, source), np.linspace(a, b, SAMPLES) - 0.5
        expected = map_coordinates(values, places.T[::-1], order=1, mode="nearest")
        outcome = scene.call(intensity_profile, kind, *line, view=view)
        np.testing.assert_allclose(scene.numbers(outcome)[2 : 2 + SAMPLES], expected, atol=1e-4 * np.ptp(values))
        np.testing.assert_allclose(outcome.numbers_N[0], np.hypot(*(a - b)), atol=1e-3)
        assert outcome.text == (scene.SPACING[source, 0] > 0)


def test_edges_and_corners_repeat_the_outermost_pixels_and_no_padding():
    values = scene.physical("grey", 0)
    outcome = scene.call(intensity_profile, "grey", 0, 0, 1000, 1000)
    assert scene.numbers(outcome)[2] == values[0, 0] and outcome.numbers_N[10] == values[-1, -1]


def test_two_originals_are_out_of_range():
    assert scene.call(intensity_profile, "grey", 100, 100, 900, 900, view="pair").fault == Fault.OUT_OF_RANGE
    assert scene.call(intensity_profile, "grey", 500, 500, 0, 0, view="tilted").fault == Fault.OUT_OF_RANGE


def test_the_gym_lists_them():
    call = ("intensity_profile", {"start": [0, 0], "end": [1000, 1000]})
    (said,), _ = scene.play((intensity_profile,), "ct", call)
    numbers = scene.numbers(scene.call(intensity_profile, "ct", 0, 0, 1000, 1000))
    listed = ", ".join(f"{value:.1f}" for value in numbers[2 : 2 + SAMPLES])
    assert f"values {listed} along {np.hypot(33, 41):.1f} pixels, {np.hypot(33 * 0.7, 41 * 0.5):.2f} mm" in said


def test_compiles_once_whatever_the_arguments():
    scene.call(intensity_profile, "grey", 1, 2, 3, 4)
    before = scene.compilations()
    for line in LINES:
        scene.call(intensity_profile, "grey", *line, view="flipped")
    assert scene.compilations() == before
