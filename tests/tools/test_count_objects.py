"""``count_objects`` against ``scipy.ndimage.label`` and ``skimage.filters.threshold_otsu``: counts and areas exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import filters

from medvista_jax.core.types import Fault
from medvista_jax.tools.count_objects import AUTOMATIC, count_objects
from tests.tools import scene


def areas(mask: np.ndarray, minimum: int) -> np.ndarray:
    labels, _ = ndimage.label(mask)  # 4-connectivity is its default
    found = np.bincount(labels.ravel())[1:]
    return found[found >= minimum]


def check(outcome, expected: np.ndarray, source: int) -> None:
    numbers = scene.numbers(outcome)
    assert numbers[0] == len(expected)
    np.testing.assert_allclose(numbers[1], expected.mean() if len(expected) else 0.0, rtol=1e-6)
    np.testing.assert_allclose(numbers[2], numbers[1] * np.prod(scene.SPACING[source].astype(float)), rtol=1e-6)
    assert outcome.text == (scene.SPACING[source, 0] > 0)


@pytest.mark.parametrize("kind", ["grey", "ct", "colour"])
@pytest.mark.parametrize("view", scene.VIEWS)
def test_a_threshold_in_physical_units(kind, view):
    for number, box in enumerate(scene.BOXES):
        source, within = scene.within(view, box, kind)
        values = scene.physical(kind, source)
        threshold, dark, minimum = (
            int(np.percentile(values[within], 40 + 7 * number)),
            number % 2,
            1 + 3 * (number // 2),
        )
        mask = within & ((values <= threshold) if dark else (values > threshold))
        outcome = scene.call(count_objects, kind, *box, threshold, dark, minimum, view=view)
        check(outcome, areas(mask, minimum), source)
        assert outcome.numbers_N[3] == threshold


@pytest.mark.parametrize("kind", ["grey", "ct", "colour"])
@pytest.mark.parametrize("view", scene.VIEWS)
def test_otsu_of_the_box(kind, view):
    """Of the 12-bit images each threshold is checked to part the box as the bins' own Otsu does."""
    for box in scene.BOXES[:3]:
        source, within = scene.within(view, box, kind)
        slope = scene.RESCALE[kind][source][0]
        upright = scene.physical(kind, source) / abs(slope)  # whole numbers
        lowest = upright[within].min()
        width = np.ceil((np.ptp(upright[within]) + 1) / 256)
        parting = filters.threshold_otsu(((upright[within] - lowest) // width).astype(np.uint8))
        for dark in (0, 1):
            mask = within & (((upright - lowest) // width > parting) != bool(dark))
            check(scene.call(count_objects, kind, *box, AUTOMATIC, dark, 1, view=view), areas(mask, 1), source)


def test_nothing_above_the_threshold_is_no_fault():
    outcome = scene.call(count_objects, "grey", 0, 0, 1000, 1000, 65535, 0, 1)
    assert outcome.fault == Fault.NONE and outcome.numbers_N[:3].tolist() == [0, 0, 0]


def test_an_empty_box():
    outcome = scene.call(count_objects, "grey", 500, 500, 501, 501, AUTOMATIC, 0, 1)
    assert outcome.fault == Fault.EMPTY_BOX and np.isfinite(outcome.numbers_N).all()


def test_the_gym_says_it_and_fills_in_otsu():
    box = {"bbox_2d": [0, 0, 1000, 1000]}
    said, _ = scene.play(
        (count_objects,), "grey", ("count_objects", box), ("count_objects", box | {"polarity": "dark", "threshold": 80})
    )
    values = scene.physical("grey", 0)
    otsu = filters.threshold_otsu(values.astype(np.uint8))
    for text, found, value in ((said[0], areas(values > otsu, 1), otsu), (said[1], areas(values <= 80, 1), 80)):
        mean, threshold = found.mean(), float(value)
        assert (
            f"objects: {len(found)}, mean area {mean:.1f} pixels, {mean * 0.35:.2f} mm2, threshold {threshold}" in text
        )


def test_compiles_once_whatever_the_arguments():
    scene.call(count_objects, "grey", 1, 2, 3, 4, 5, 0, 1)
    before = scene.compilations()
    for box in scene.BOXES:
        scene.call(count_objects, "grey", *box, box[0], 1, 20, view="tilted")
    assert scene.compilations() == before
