"""``find_bright_blobs`` against planted discs with literal truth, and ``skimage.feature.blob_dog`` on the same levels.

Stated bounds, for discs of radius 2.5 to 10 pixels on a 64 x 80 view that stand out by a third of the range from a
ground with noise of 2 % of it: every disc is found, none that is not there, centres within one pixel, radii within
20 %.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.feature import blob_dog

from medvista_jax.core.types import Fault
from medvista_jax.tools.adjust_window import adjust_window
from medvista_jax.tools.find_bright_blobs import MOST, RATIO, find_bright_blobs
from tests.tools import scene

SIZE = (64, 80)
_find = jax.jit(find_bright_blobs.kernel)


def find(levels: np.ndarray, count: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """Boxes found, ``[n, 4]`` in 0…1000, and all numbers."""
    shown = jnp.asarray(np.round(np.clip(levels, 0, 255)), jnp.float32)[..., None]
    outcome = _find(jnp.array([count, 0], jnp.int32), scene.sight("grey").replace(shown_hwC=shown))
    assert outcome.fault == Fault.NONE and np.isfinite(outcome.numbers_N).all()
    return np.asarray(outcome.numbers_N[: 4 * int(outcome.text)]).reshape(-1, 4), np.asarray(outcome.numbers_N)


def discs(*blobs: tuple[float, float, float, float], ground: float = 60.0, seed: int = 0) -> np.ndarray:
    """(x, y, radius, height) in pixels and levels over a noisy ground, edges antialiased."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    levels = np.random.default_rng(seed).normal(ground, 5.0, SIZE)
    for at_x, at_y, radius, height in blobs:
        levels += height * np.clip(radius + 0.5 - np.hypot(x - at_x, y - at_y), 0, 1)
    return levels


def centre_and_radius(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = box.reshape(2, 2) * np.array([SIZE[1], SIZE[0]]) / 1000
    return pixels.mean(axis=0), (pixels[1] - pixels[0]) / 2


LAYOUTS = [
    [(20.3, 30.7, 5.0, 150.0)],
    [(20.0, 16.0, 2.5, 180.0), (58.0, 40.0, 8.0, 120.0)],
    [(15.5, 15.5, 4.0, 190.0), (60.2, 14.9, 6.0, 150.0), (30.0, 48.0, 10.0, 100.0)],
    [(12.0, 12.0, 3.0, 190.0), (40.0, 12.0, 3.5, 160.0), (66.0, 14.0, 4.0, 130.0), (20.0, 48.0, 5.0, 100.0)],
    [(10, 10, 3, 190.0), (40, 11, 3, 165.0), (70, 10, 3, 140.0), (14, 52, 3, 115.0), (50, 50, 3, 90.0)],
]  # fmt: skip


@pytest.mark.parametrize("blobs", LAYOUTS, ids=[str(len(blobs)) for blobs in LAYOUTS])
def test_every_disc_and_nothing_else_the_strongest_first(blobs):
    for seed in range(4):
        boxes, _ = find(discs(*blobs, seed=seed))
        assert len(boxes) == len(blobs)
        for box, (x, y, radius, _) in zip(boxes, blobs, strict=True):  # written in the order of their heights
            centre, sides = centre_and_radius(box)
            assert np.hypot(*(centre - (x, y))) < 1.0
            np.testing.assert_allclose(sides, radius, rtol=0.2)


def test_most_and_fewer():
    many = discs(*((10.0 + 20 * (k % 4), 12.0 + 20 * (k // 4), 3.0, 180.0 - 8 * k) for k in range(12)))
    boxes, _ = find(many)
    assert len(boxes) == MOST
    for count in range(1, MOST):
        fewer, _ = find(many, count)
        assert (fewer == boxes[:count]).all()


@pytest.mark.parametrize("levels", [np.zeros(SIZE), np.full(SIZE, 255.0), np.full(SIZE, 93.0), discs()])
def test_nothing_on_flat_and_noisy_ground(levels):
    assert len(find(levels)[0]) == 0


def test_dark_discs_steps_and_ramps_are_no_bright_blobs():
    ramp = np.broadcast_to(np.linspace(0, 255, SIZE[1]), SIZE)
    step = np.where(np.arange(SIZE[1]) < 37, 40.0, 210.0) * np.ones((SIZE[0], 1))
    for levels in (discs((40, 32, 6, -120), ground=190), ramp, step):
        assert len(find(levels)[0]) == 0


@pytest.mark.parametrize("blobs", LAYOUTS[1:], ids=[str(len(blobs)) for blobs in LAYOUTS[1:]])
def test_the_places_of_skimage(blobs):
    """``blob_dog`` has the same ratio of scales; its centres are whole pixels and its radii steps of the ratio."""
    levels = discs(*blobs)
    boxes, _ = find(levels)
    theirs = blob_dog(levels / 255, min_sigma=1 / RATIO, max_sigma=10, sigma_ratio=RATIO, threshold=0.06, overlap=0.3)
    for box in boxes:
        centre, _ = centre_and_radius(box)
        assert np.min(np.hypot(theirs[:, 1] + 0.5 - centre[0], theirs[:, 0] + 0.5 - centre[1])) < 1.5


def test_boxes_stay_in_the_frame():
    boxes, numbers = find(discs((1.0, 1.0, 6, 180), (79.0, 63.0, 5, 150)))
    assert len(boxes) == 2 and numbers.min() >= 0 and numbers.max() <= 1000
    assert boxes[0, :2].tolist() == [0, 0] and boxes[1, 2:].tolist() == [1000, 1000]


def test_the_gym_says_boxes_of_what_it_shows_after_a_window_too():
    said, images = scene.play(
        (find_bright_blobs, adjust_window), "grey", ("find_bright_blobs", {}),
        ("adjust_window", {"low": 254, "high": 255}), ("find_bright_blobs", {"image_index": 2, "count": 2}),
    )  # fmt: skip
    assert "bright blobs [" in said[0] and 1 <= said[0].count("[") <= MOST
    assert not images[2].any() and "no bright blobs" in said[2]


def test_compiles_once_whatever_the_arguments():
    find(discs())
    before = _find._cache_size()
    find(discs((40, 32, 6, 120)), 3)
    assert _find._cache_size() == before
