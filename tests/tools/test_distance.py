"""``distance`` against float64 geometry: within 1e-3 pixel and mm, the float32 rounding of maps over some 50 pixels."""

from __future__ import annotations

import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.tools.distance import distance
from medvista_jax.tools.pan_compare import pan_compare
from tests.tools import scene

POINTS = (((400, 300), (520, 610)), ((480, 520), (480, 520)), ((310, 620), (430, 250)))


@pytest.mark.parametrize("view", scene.VIEWS)
def test_pixels_and_millimetres_of_the_original_in_every_view(view):
    for start, end in POINTS if view != "pair" else (((20, 300), (430, 800)), ((600, 900), (990, 10))):
        (source, a), (_, b) = scene.place(view, start), scene.place(view, end)
        outcome = scene.call(distance, "grey", *start, *end, view=view)
        known = scene.SPACING[source, 0] > 0
        np.testing.assert_allclose(scene.numbers(outcome)[0], np.hypot(*(a - b)), atol=1e-3)
        assert outcome.text == known
        millimetres = np.hypot(*((a - b) * scene.SPACING[source, ::-1])) if known else 0.0
        np.testing.assert_allclose(outcome.numbers_N[1], millimetres, atol=1e-3)


def test_rows_and_columns_have_their_own_spacing():
    across, down = (scene.call(distance, "grey", 0, 0, *end) for end in ((1000, 0), (0, 1000)))
    assert across.numbers_N[:2].tolist() == pytest.approx([41, 41 * 0.5], rel=1e-6)  # SIZES and SPACING, literally
    assert down.numbers_N[:2].tolist() == pytest.approx([33, 33 * 0.7], rel=1e-6)


def test_two_originals_and_places_beyond_the_image_are_out_of_range():
    assert scene.call(distance, "grey", 100, 100, 900, 900, view="pair").fault == Fault.OUT_OF_RANGE
    assert scene.call(distance, "grey", 0, 0, 500, 500, view="tilted").fault == Fault.OUT_OF_RANGE
    assert scene.call(distance, "grey", 0, 0, 1000, 1000, view="quarter").fault == Fault.NONE


def test_the_gym_says_it_with_its_unit():
    pair = {"left_box": [0, 0, 500, 500], "right_box": [500, 500, 1000, 1000]}
    whole = {"start": [0, 0], "end": [0, 1000]}
    twice = {"start": [250, 0], "end": [750, 0], "image_index": 2}  # middles of the two halves of one original
    said, _ = scene.play(
        (distance, pan_compare), "grey", ("distance", whole), ("distance", whole | {"image_index": 1}),
        ("pan_compare", pair), ("distance", twice),
    )  # fmt: skip
    assert "distance 33.0 pixels, 23.10 mm" in said[0]
    assert "distance 40.0 pixels" in said[1] and "mm" not in said[1]
    # From (10.25, 0) to (30.75, 16.5): hypot(20.5, 16.5) pixels, hypot(10.25, 11.55) mm.
    assert "distance 26.3 pixels, 15.44 mm" in said[3]


def test_compiles_once_whatever_the_arguments():
    scene.call(distance, "grey", 1, 2, 3, 4)
    before = scene.compilations()
    for view in scene.VIEWS:
        scene.call(distance, "grey", 10, 20, 300, 400, view=view)
    assert scene.compilations() == before
