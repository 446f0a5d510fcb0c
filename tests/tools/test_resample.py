"""Crop and resize against ``jax.image.scale_and_translate`` and Pillow; windows against numpy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from medvista_jax.tools.resample import apply_window, crop_resize, triangle_weights

BOXES = {
    "whole": (0.0, 0.0, 1.0, 1.0),
    "enlarged": (0.31, 0.42, 0.47, 0.55),
    "shrunk": (0.05, 0.1, 0.97, 0.88),
    "long": (0.1, 0.4, 0.9, 0.5),  # shrunk along x, enlarged along y
    "corner": (0.9, 0.0, 1.0, 0.07),
    "less than a pixel": (0.5, 0.5, 0.505, 0.507),
}
SIZES = [((53, 47), (16, 16)), ((64, 64), (17, 23)), ((31, 90), (40, 5))]  # rows, columns → height, width


crop = jax.jit(crop_resize, static_argnums=(2, 3))
weights_of = jax.jit(triangle_weights, static_argnums=(2, 3))


def noise(rows: int, columns: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, channels)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=1)
def scale_and_translate(pixels, shape, scale, shift):
    exact = jax.lax.Precision.HIGHEST
    return jax.image.scale_and_translate(pixels, shape, (0, 1), scale, shift, "linear", True, exact)


def by_jax(pixels: np.ndarray, box, height: int, width: int) -> np.ndarray:
    rows, columns, channels = pixels.shape
    scale = jnp.array([height / (box[3] - box[1]) / rows, width / (box[2] - box[0]) / columns])
    shift = -jnp.array([box[1] * rows, box[0] * columns]) * scale
    shape = (height, width, channels)
    with jax.numpy_rank_promotion("allow"):  # its own code promotes
        shown = scale_and_translate(pixels, shape, scale, shift)
    return np.asarray(shown)


def by_pillow(pixels: np.ndarray, box, height: int, width: int) -> np.ndarray:
    rows, columns, channels = pixels.shape
    corners = (box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows)
    planes = [Image.fromarray(np.ascontiguousarray(pixels[:, :, c])) for c in range(channels)]
    assert all(plane.mode == "F" for plane in planes)
    shown = [np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR, box=corners)) for plane in planes]
    return np.stack(shown, axis=-1)


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize(("size", "out"), SIZES)
def test_against_jax_and_pillow(name, size, out):
    pixels = noise(*size, channels=3)
    box = BOXES[name]
    ours = np.asarray(crop(jnp.asarray(pixels)[None], jnp.array([box]), *out))[0]
    assert ours.shape == (*out, 3) and ours.dtype == np.float32
    # float32 against float32: a box edge near 90 px is known to 90 * 2**-24 px, and neighbours differ by up to 255.
    np.testing.assert_allclose(ours, by_jax(pixels, box, *out), atol=4e-3)
    # Pillow sums in double and stores float32 between the passes. On 0…255: the design asks for 0.003.
    np.testing.assert_allclose(ours, by_pillow(pixels, box, *out), atol=4e-3)


def test_pillow_agrees_to_three_thousandths_on_boxes_of_the_frame():
    """The design's figure, on the boxes that a policy can name: multiples of 1/1000 on a 256 canvas."""
    pixels = noise(256, 256)
    rng = np.random.default_rng(3)
    worst = 0.0
    for _ in range(20):
        low = rng.integers(0, 900, 2)
        high = low + rng.integers(20, 101, 2) * np.minimum(10, (1000 - low) // 101 + 1)
        box = np.concatenate([low, np.minimum(high, 1000)]) / 1000
        ours = np.asarray(crop(jnp.asarray(pixels)[None], jnp.asarray(box, jnp.float32)[None], 64, 64))[0]
        worst = max(worst, np.abs(ours - by_pillow(pixels, box, 64, 64)).max())
    assert worst <= 3e-3


def test_group_rows_share_their_prompts_pixels():
    """Row ``b`` looks at image ``b // group``: each row equals a call of its own."""
    images = np.stack([noise(20, 26, seed=seed) for seed in range(3)])
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (6, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, (6, 2))], axis=1).astype(np.float32)
    together = np.asarray(crop(jnp.asarray(images), jnp.asarray(boxes), 8, 9))
    for row in range(6):
        alone = crop(jnp.asarray(images[row // 2])[None], jnp.asarray(boxes[row : row + 1]), 8, 9)
        np.testing.assert_allclose(
            together[row], np.asarray(alone)[0], atol=1e-3
        )  # compiled apart: weights round apart


def test_boxes_that_do_not_divide_among_images_are_refused():
    with pytest.raises(ValueError, match="5 boxes do not divide among 2 images"):
        crop_resize(jnp.zeros((2, 4, 4, 1)), jnp.zeros((5, 4)), 2, 2)


def test_weights_are_a_partition_and_dyadic_for_whole_reductions():
    rng = np.random.default_rng(1)
    start = rng.uniform(0, 200, 50).astype(np.float32)
    stop = (start + rng.uniform(0.01, 56, 50)).astype(np.float32)
    weights = np.asarray(weights_of(jnp.asarray(start), jnp.asarray(stop), 256, 64))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    thumbnail = np.asarray(weights_of(jnp.zeros(1), jnp.full((1,), 256.0), 256, 64))[0]
    inner = thumbnail[1:-1]
    assert (inner * 32 == np.round(inner * 32)).all()  # 1/32, 3/32, 5/32, 7/32 and mirrored
    literal = np.array([1, 3, 5, 7, 7, 5, 3, 1]) / 32
    np.testing.assert_array_equal(inner[0, 2:10], literal)
    assert not inner[0, :2].any() and not inner[0, 10:].any()


def test_thumbnails_of_whole_numbers_are_exact():
    """Sums of dyadic weights and 16-bit pixels need 26 bits at most for 8-bit pixels: float32 rounds nothing."""
    pixels = noise(256, 256)
    thumbnail = np.asarray(crop(jnp.asarray(pixels)[None], jnp.array([[0.0, 0.0, 1.0, 1.0]]), 64, 64))[0, :, :, 0]
    matrix = np.zeros((64, 256))
    for out in range(64):
        weight = np.maximum(0, 1 - np.abs(4 * out + 1.5 - np.arange(256)) / 4)
        matrix[out] = weight / weight.sum()
    exact = matrix @ pixels[:, :, 0].astype(np.float64) @ matrix.T
    np.testing.assert_array_equal(thumbnail[1:-1, 1:-1], exact[1:-1, 1:-1].astype(np.float32))
    np.testing.assert_allclose(thumbnail, exact, atol=1e-4)  # edge weights are sevenths of something: not dyadic


def test_integer_pixels_need_no_cast():
    pixels = np.random.default_rng(0).integers(0, 65_536, (1, 12, 12, 1)).astype(np.uint16)
    box = jnp.array([[0.0, 0.0, 1.0, 1.0]])
    same = np.asarray(crop(jnp.asarray(pixels), box, 12, 12))
    np.testing.assert_array_equal(same, pixels.astype(np.float32))  # the identity, up to the largest value


def test_window_against_numpy():
    rng = np.random.default_rng(2)
    pixels = rng.uniform(-100, 70_000, (4, 5, 6, 2)).astype(np.float32)
    window = np.array([[0, 255], [1000, 1001], [0, 65_535], [20_000, 30_000]], np.float32)
    low, high = window[:, 0, None, None, None], window[:, 1, None, None, None]
    expected = np.round(np.clip((pixels - low) / (high - low), 0, 1) * np.float32(255)).astype(np.uint8)
    shown = np.asarray(apply_window(jnp.asarray(pixels), jnp.asarray(window)))
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, expected)


def test_window_rounds_to_nearest_and_clips():
    grey = jnp.array([-5.0, 0.0, 0.4, 0.6, 1.5, 2.5, 254.4, 254.6, 255.0, 300.0]).reshape(1, 1, -1, 1)
    shown = np.asarray(apply_window(grey, jnp.array([[0.0, 255.0]]))).ravel()
    assert shown.tolist() == [0, 0, 0, 1, 2, 2, 254, 255, 255, 255]  # halves go to even, as numpy's
