"""Our resize against Pillow's own: every byte of it."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from medvista_jax.models.pillow import plan, resize, resize_views, taps

SIZES = [
    ((53, 47), (28, 56)),  # Pillow resamples the height first
    ((47, 53), (56, 28)),
    ((60, 50), (40, 40)),  # height by exactly twice the pixels of the width: the width first
    ((61, 50), (40, 40)),  # by a pixel more
    ((3, 400), (28, 280)),
    ((400, 3), (280, 28)),
    ((1, 1), (9, 5)),
    ((64, 64), (64, 64)),  # nothing to do
    ((64, 40), (64, 17)),  # one axis only
    ((250, 251), (2, 3)),
]
run = jax.jit(resize)


def extreme(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Black and white only: overshoots are clipped between the passes, and a wrong order shows by up to 20 levels."""
    return np.random.default_rng(seed).integers(0, 2, (height, width, 3)).astype(np.uint8) * 255


@pytest.mark.parametrize(("size", "out"), SIZES, ids=str)
@pytest.mark.parametrize("resample", [1, 2, 3], ids=["lanczos", "bilinear", "bicubic"])
def test_every_byte_is_pillows(size, out, resample):
    pixels = extreme(*size)
    ours = run(pixels, plan(size, out, resample, size))
    theirs = np.asarray(Image.fromarray(pixels).resize(out[::-1], resample))
    assert ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs)


def test_what_lies_around_the_image_is_not_seen_and_sizes_are_data():
    """One program for every image of a canvas and a bucket."""
    rng = np.random.default_rng(1)
    traced = []

    @jax.jit
    def counted(canvas_YXC, how):
        traced.append(1)
        return resize(canvas_YXC, how)

    for size in [(64, 64), (64, 5), (1, 33), (40, 64), (63, 17)]:
        canvas = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        inside = canvas[: size[0], : size[1]]
        theirs = np.asarray(Image.fromarray(inside).resize((24, 20), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(counted(canvas, plan(size, (20, 24), 3, (64, 64))), theirs)
    assert len(traced) == 1


@pytest.mark.parametrize("size", [(40, 30), (90, 30)], ids=["width first", "height first"])
def test_a_batch_of_views(size):
    views = np.stack([extreme(*size, seed=seed) for seed in range(3)])
    ours = jax.jit(resize_views, static_argnums=(1, 2))(views, (20, 25), 3)
    theirs = [np.asarray(Image.fromarray(view).resize((25, 20), Image.Resampling.BICUBIC)) for view in views]
    np.testing.assert_array_equal(ours, np.stack(theirs))


def test_weights_sum_to_one_and_fit_their_table():
    for size, out in [(100, 7), (7, 100), (128, 128)]:
        start, weight, used = taps(size, out, 3, 128)
        assert weight.shape == (out, 2 * int(np.ceil(2 * max(128 / out, 1))) + 1)  # the canvas decides, not the image
        assert np.abs(weight.sum(1) - (1 << 22)).max() <= used  # each rounds by half a unit at most
        assert not weight[:, int(used) :].any() and (start >= 0).all() and (start < size).all()


def test_refusals():
    with pytest.raises(ValueError, match=r"resample=0 is not supported; 1 \(lanczos\)"):
        taps(4, 4, 0, 4)
    with pytest.raises(ValueError, match="cannot resize 5 to 4 pixels on a canvas of 4"):
        taps(5, 4, 3, 4)
