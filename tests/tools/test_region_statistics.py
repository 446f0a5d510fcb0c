"""``region_statistics`` against numpy in float64.

Relative tolerance 2e-6 of the largest value: one rounding of the mean, and of sums of squares a column at a time.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.tools.base import Sight
from medvista_jax.tools.region_statistics import region_statistics
from tests.tools import scene


def expected(values: np.ndarray) -> list[float]:
    return [values.mean(), values.std(), values.min(), values.max(), values.size]


@pytest.mark.parametrize("kind", ["grey", "ct", "colour"])
@pytest.mark.parametrize("view", scene.VIEWS)
def test_physical_values_of_the_pixels_in_the_box(kind, view):
    for box in scene.BOXES:
        source, within = scene.within(view, box, kind)
        values = scene.physical(kind, source)[within]
        outcome = scene.call(region_statistics, kind, *box, view=view)
        np.testing.assert_allclose(scene.numbers(outcome)[:5], expected(values), atol=2e-6 * np.abs(values).max())
        row, column = scene.SPACING[source].astype(float)
        np.testing.assert_allclose(outcome.numbers_N[5], values.size * row * column, rtol=1e-6)
        assert outcome.text == (row > 0)


@pytest.mark.parametrize("box", [(500, 500, 501, 501), (600, 100, 600, 900), (700, 100, 600, 900)])
def test_a_box_without_the_centre_of_a_pixel_is_empty(box):
    outcome = scene.call(region_statistics, "grey", *box)
    assert outcome.fault == Fault.EMPTY_BOX and np.isfinite(outcome.numbers_N).all()


def test_a_box_beyond_the_image_is_empty():
    assert scene.call(region_statistics, "grey", 0, 0, 60, 60, view="tilted").fault == Fault.EMPTY_BOX


@pytest.mark.parametrize(("low", "high"), [(0, 65536), (65000, 65010)])
def test_four_million_pixels_of_sixteen_bits_keep_five_digits(low, high):
    """A float32 running sum would be off by whole per cents, a sum of squares about 0 by hundreds."""
    side = 2048
    stored = np.random.default_rng(low).integers(low, high, (1, side, side, 1)).astype(np.uint16)
    small = scene.originals("ct")
    one = jax.tree.map(lambda leaf: leaf[:1], small.replace(count=jnp.ones(1, jnp.int32)))
    one = one.replace(pixels_OYXC=jnp.asarray(stored), size_O2=jnp.full((1, 2), side), count=jnp.int32(1))
    seen = scene.sight("ct")
    square = jnp.array([[side, 0.0, 0.0], [0.0, side, 0.0]])
    affine = jnp.broadcast_to(square, seen.views.view.affine.shape)
    views = seen.views.replace(view=seen.views.view.replace(affine=affine))
    outcome = jax.jit(region_statistics.kernel)(jnp.array([0, 0, 1000, 1000, 0]), Sight(seen.view, views, one))
    values = stored.astype(float) - 1024.0
    np.testing.assert_allclose(outcome.numbers_N[:5], expected(values), rtol=1e-5)


def test_the_gym_says_it():
    values = scene.physical("ct", 0)
    said, _ = scene.play(
        (region_statistics,), "ct", ("region_statistics", {"bbox_2d": [0, 0, 1000, 1000]}),
        ("region_statistics", {"bbox_2d": [0, 0, 1000, 1000], "image_index": 1}),
    )  # fmt: skip
    mean, deviation, low, high, area = expected(values)
    assert (
        f"mean {mean:.1f}, sd {deviation:.1f}, min {low:.1f}, max {high:.1f}, area {area} pixels, 473.6 mm2" in said[0]
    )
    assert "area 1920 pixels" in said[1] and "mm" not in said[1]


def test_compiles_once_whatever_the_arguments():
    scene.call(region_statistics, "grey", 1, 2, 3, 4)
    before = scene.compilations()
    for box in scene.BOXES:
        scene.call(region_statistics, "grey", *box, view="tilted")
    assert scene.compilations() == before
