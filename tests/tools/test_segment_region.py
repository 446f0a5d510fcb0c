"""``segment_region`` against ``skimage.segmentation.flood(connectivity=1)``: the very same pixels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.segmentation import flood

from medvista_jax.core.types import Fault
from medvista_jax.tools.flip import flip
from medvista_jax.tools.pan_compare import pan_compare
from medvista_jax.tools.rotate import rotate
from medvista_jax.tools.segment_region import draw_outline, segment_region
from medvista_jax.tools.zoom_in import zoom_in
from tests.tools import scene

POINTS = ((400, 300), (520, 610), (480, 520), (310, 620))
SIZE = (64, 80)
_draw = jax.jit(draw_outline)


def grown(kind: str, view: str, point: tuple[int, int], tolerance: int) -> tuple[int, np.ndarray]:
    """Original, and the region that skimage grows on it."""
    source, (x, y) = scene.place(view, point, kind)
    values = scene.physical(kind, source)
    return source, flood(values, (int(y), int(x)), connectivity=1, tolerance=tolerance)


def stacked(outcome, kind: str):
    return jax.tree.map(jnp.asarray, (outcome.values_N, outcome.view, scene.originals(kind)))


@pytest.mark.parametrize("kind", ["grey", "ct", "colour"])
@pytest.mark.parametrize("view", scene.VIEWS)
def test_area_of_the_flooded_pixels(kind, view):
    for point in POINTS:
        for share in (0, 15, 30, 45):
            tolerance = share * (16 if kind == "ct" else 1)
            source, region = grown(kind, view, point, tolerance)
            outcome = scene.call(segment_region, kind, *point, tolerance, view=view)
            assert scene.numbers(outcome)[0] == region.sum()
            area = region.sum() * np.prod(scene.SPACING[source].astype(float))
            np.testing.assert_allclose(outcome.numbers_N[1], area, rtol=1e-6)
            assert outcome.text == (area > 0)


def test_the_padding_is_never_part_of_it():
    outcome = scene.call(segment_region, "grey", 1000, 1000, 65535)
    assert scene.numbers(outcome)[0] == scene.SIZES[0].prod()


def test_a_point_beyond_the_image():
    assert scene.call(segment_region, "grey", 0, 0, 10, view="tilted").fault == Fault.OUT_OF_RANGE


def ring(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The region's rim from within and from without, by shifting."""
    around = np.pad(region, 1, mode="edge")
    shifted = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]
    return region & ~np.all(shifted, axis=0), ~region & np.any(shifted, axis=0)


@pytest.mark.parametrize("kind", ["grey", "colour"])
@pytest.mark.parametrize("view", scene.VIEWS)
def test_the_outline_lies_where_the_view_shows_the_rim(kind, view):
    point = POINTS[2]
    source, region = grown(kind, view, point, 40)
    outcome = scene.call(segment_region, kind, *point, 40, view=view)
    channels = 3 if kind == "colour" else 1
    drawn = np.asarray(_draw(jnp.full((*SIZE, channels), 99.0), *stacked(outcome, kind)))
    shown = np.zeros(SIZE, bool)
    for row, column in np.ndindex(*SIZE):
        where, (x, y) = scene.place(view, ((column + 0.5) / SIZE[1] * 1000, (row + 0.5) / SIZE[0] * 1000), kind)
        if where == source and 0 <= x < region.shape[1] and 0 <= y < region.shape[0]:
            shown[row, column] = region[int(y), int(x)]
    inner, outer = ring(shown)
    expected = np.full((*SIZE, channels), 99.0)
    expected[outer] = 0
    expected[inner] = (255, 255, 0)[:channels]
    differs = (drawn != expected).any(axis=-1)
    assert inner.sum() > 10
    # A pixel whose middle lies within 1e-5 of the border of two original pixels may fall on either side.
    assert differs.mean() < 0.002


@pytest.mark.parametrize("level", [0.0, 255.0])
def test_it_shows_on_black_and_on_white(level):
    outcome = scene.call(segment_region, "grey", *POINTS[2], 40)
    drawn = np.asarray(_draw(jnp.full((*SIZE, 1), level), *stacked(outcome, "grey")))
    assert (drawn != level).sum() > 10


def test_it_stays_with_the_region_through_zoom_flip_and_turn_and_the_gym_says_the_area():
    """The outline of a zoom is that of the zoomed region, one pixel wide; of an image beside it there is none."""
    tools = (segment_region, zoom_in, flip, rotate, pan_compare)
    box = [300, 300, 700, 700]
    said, images = scene.play(
        tools, "grey", ("segment_region", {"point": [480, 520], "tolerance": 40}),
        ("zoom_in", {"bbox_2d": box, "image_index": 2}), ("zoom_in", {"bbox_2d": box}),
        ("flip", {"direction": "vertical", "image_index": 2}), ("rotate", {"degrees": 180, "image_index": 2}),
        ("pan_compare", {"left_box": box, "right_box": box, "image_index": 2, "right_image_index": 1}),
        ("pan_compare", {"left_box": box, "right_box": box, "right_image_index": 1}),
    )  # fmt: skip
    source, region = grown("grey", "whole", (480, 520), 40)
    assert f"image 2, area {region.sum()} pixels, {region.sum() * 0.35:.1f} mm2" in said[0]
    plain, outlined, zoomed, bare, flipped, turned, pair, bare_pair = (images[k] for k in (0, *range(2, 9)))
    u, v = (np.arange(40) + 0.5) / 40, (np.arange(40) + 0.5) / 40
    for image, ground, low, width in ((outlined, plain, 0.0, 1.0), (zoomed, bare, 0.3, 0.4)):
        y, x = ((low + side * width) * scene.SIZES[0][axis] for axis, side in ((0, v), (1, u)))
        inner, outer = ring(region[np.ix_(y.astype(int), x.astype(int))])
        expected = np.where(inner[..., None], 255, np.where(outer[..., None], 0, ground))
        assert (image == expected).all()
    assert (flipped == outlined[::-1]).all()
    assert np.abs(turned.astype(int) - outlined[::-1, ::-1]).max() <= 1
    assert (pair[:, 21:] == bare_pair[:, 21:]).all() and (pair[:, :19] != bare_pair[:, :19]).any()


def test_compiles_once_whatever_the_arguments():
    scene.call(segment_region, "grey", 1, 2, 3)
    before = scene.compilations()
    for point in POINTS:
        scene.call(segment_region, "grey", *point, point[0], view="tilted")
    assert scene.compilations() == before
