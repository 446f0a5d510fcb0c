"""Canvases: pixels stay where they are, and what is reduced is reduced as JAX would."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from medvista_jax.data.files import MedicalImage, choose_canvas, lay_on_canvas

RNG = np.random.default_rng(0)


def made(height: int, width: int, channels: int = 1, dtype=np.uint8, **fields) -> MedicalImage:
    top = np.iinfo(dtype).max
    pixels = RNG.integers(0, top, (height, width, channels), dtype, endpoint=True)
    return MedicalImage(pixels, fields.pop("window", (0.0, float(top))), **fields)


@pytest.mark.parametrize(
    "sizes, canvas",
    [([(10, 20)], 256), ([(256, 256)], 256), ([(257, 3)], 512), ([(3, 600), (900, 4)], 1024), ([(5000, 3)], 2048)],
)
def test_the_smallest_bucket_that_holds_all(sizes, canvas):
    assert choose_canvas([made(*size) for size in sizes]) == (canvas, canvas)


def test_oblong_buckets():
    buckets = [(512, 256), (256, 512), 1024]
    assert choose_canvas([made(500, 100)], buckets) == (512, 256)
    assert choose_canvas([made(100, 500)], buckets) == (256, 512)
    assert choose_canvas([made(300, 300)], buckets) == (1024, 1024)
    with pytest.raises(ValueError, match="no bucket"):
        choose_canvas([], [])


def test_images_lie_in_the_corner_and_keep_their_meaning():
    first = made(30, 20, window=(-3.5, 40.0), rescale=(2.0, -1024.0), spacing=(0.5, 0.75))
    second = made(7, 50, dtype=np.uint16)
    out = lay_on_canvas([first, second], (40, 60), slots=3)
    assert out.pixels_OYXC.shape == (3, 40, 60, 1) and out.pixels_OYXC.dtype == np.uint16 and out.count == 2
    np.testing.assert_array_equal(out.pixels_OYXC[0, :30, :20], first.pixels_YXC)
    np.testing.assert_array_equal(out.pixels_OYXC[1, :7, :50], second.pixels_YXC)
    assert out.pixels_OYXC.sum() == first.pixels_YXC.sum() + second.pixels_YXC.sum(dtype=np.uint64)
    np.testing.assert_array_equal(out.window_O2, [[-3.5, 40], [0, 65535], [0, 1]])
    np.testing.assert_array_equal(out.rescale_O2, [[2, -1024], [1, 0], [1, 0]])
    np.testing.assert_array_equal(out.spacing_O2, [[0.5, 0.75], [0, 0], [0, 0]])
    np.testing.assert_array_equal(out.size_O2, [[30, 20], [7, 50], [0, 0]])


def test_grey_beside_colour_has_equal_channels():
    grey, colour = made(4, 4), made(5, 5, 3)
    out = lay_on_canvas([grey, colour], 8)
    np.testing.assert_array_equal(out.pixels_OYXC[0, :4, :4], np.repeat(grey.pixels_YXC, 3, axis=2))
    assert lay_on_canvas([grey], 8, channels=3, dtype=np.uint16).pixels_OYXC.shape == (1, 8, 8, 3)


@pytest.mark.parametrize("size, dtype", [((64, 128), np.uint8), ((100, 37), np.uint16), ((81, 200), np.uint8)])
def test_large_images_are_reduced_with_an_antialiased_triangle(size, dtype):
    image = made(*size, 1, dtype, spacing=(0.5, 0.25))
    out = lay_on_canvas([image], 50)
    rows, columns = out.size_O2[0]
    assert max(rows, columns) == 50
    assert rows / columns == pytest.approx(size[0] / size[1], rel=0.03)  # half a pixel of 18 or more
    with jax.ensure_compile_time_eval():
        reference = jax.image.resize(
            image.pixels_YXC[..., 0].astype(np.float32), (int(rows), int(columns)), "linear", antialias=True
        )
    # Rounding to integers, and Pillow's and JAX's float32 sums of up to 65,535.
    np.testing.assert_allclose(
        out.pixels_OYXC[0, :rows, :columns, 0], reference, atol=0.51 if dtype == np.uint8 else 0.6
    )
    # The image is as long in millimetres as before.
    np.testing.assert_allclose(out.spacing_O2[0] * out.size_O2[0], [size[0] * 0.5, size[1] * 0.25], rtol=1e-6)


def test_a_very_long_image_keeps_a_row():
    out = lay_on_canvas([made(2, 900)], 64)
    assert out.size_O2[0].tolist() == [1, 64]


@pytest.mark.parametrize(
    "images, options, words",
    [
        ([made(2, 2), made(2, 2)], {"slots": 1}, "2 images do not fit in 1 slots"),
        ([made(2, 2, 3)], {"channels": 1}, "channels=3"),
        ([made(2, 2, dtype=np.uint16)], {"dtype": np.uint8}, "uint16"),
        ([made(2, 2)], {"dtype": np.float32}, "uint16"),
    ],
)
def test_what_does_not_fit_is_said(images, options, words):
    with pytest.raises(ValueError, match=words):
        lay_on_canvas(images, 8, **options)
