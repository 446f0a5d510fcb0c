"""Pictures against Pillow and literal arrays, and the scale of stored numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medvista_jax.data.files import BadFile, image, load_images
from medvista_jax.data.files.image import to_stored
from tests.data.files.made import saved

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
COLOUR = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)


def one(data: bytes, **options) -> image.MedicalImage:
    (loaded,) = load_images(data, **options)
    return loaded


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "WEBP", "GIF"])
def test_grey_and_colour_are_as_stored(kind):
    lossless = {"lossless": True} if kind == "WEBP" else {}
    grey = one(saved(GREY, kind, **lossless))
    np.testing.assert_array_equal(grey.pixels_YXC, GREY[..., None])
    assert (grey.window, grey.rescale, grey.unit, grey.spacing) == ((0.0, 255.0), (1.0, 0.0), "", None)
    if kind != "GIF":
        np.testing.assert_array_equal(one(saved(COLOUR, kind, **lossless)).pixels_YXC, COLOUR)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_stay_sixteen(kind):
    deep = GREY.astype(np.uint16) * 200
    loaded = one(saved(deep, kind))
    np.testing.assert_array_equal(loaded.pixels_YXC[..., 0], deep)
    assert loaded.pixels_YXC.dtype == np.uint16 and loaded.exact
    assert loaded.window == tuple(np.percentile(deep, (0.5, 99.5)))


def test_dots_per_inch_are_no_spacing():
    assert one(saved(GREY, "PNG", dpi=(300, 300))).spacing is None
    assert one(saved(GREY, "TIFF", dpi=(300, 300))).spacing is None


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter to the right
    big = np.kron(GREY, np.ones((8, 8), np.uint8))
    turned = one(saved(big, "PNG", exif=exif))
    np.testing.assert_array_equal(turned.pixels_YXC[..., 0], np.rot90(big, -1))


def test_palettes_alpha_and_other_colours():
    palette = Image.fromarray(GREY // 12, "P")
    palette.putpalette([value for index in range(20) for value in (index, 2 * index, 255 - index)])
    index = GREY // 12
    truth = np.stack([index, 2 * index, 255 - index], axis=-1)
    np.testing.assert_array_equal(one(saved(palette)).pixels_YXC, truth)
    palette.putpalette([index for index in range(20) for _ in range(3)])
    np.testing.assert_array_equal(one(saved(palette)).pixels_YXC, (GREY // 12)[..., None])
    alpha = np.dstack([COLOUR, np.zeros((4, 5), np.uint8)])
    alpha[0, 0, 3] = 255
    shown = one(saved(alpha)).pixels_YXC
    np.testing.assert_array_equal(shown[0, 0], COLOUR[0, 0])
    assert (shown[1:] == 255).all()  # nothing there: white
    np.testing.assert_array_equal(one(saved(np.dstack([GREY] * 3))).pixels_YXC, GREY[..., None])
    np.testing.assert_array_equal(one(saved(Image.fromarray(GREY > 99))).pixels_YXC[..., 0], (GREY > 99) * 255)
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    np.testing.assert_array_equal(one(saved(cmyk, "TIFF")).pixels_YXC, np.asarray(cmyk.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.uint16])
def test_tiff_of_any_number(tmp_path, dtype):
    values = (GREY.astype(np.int64) * 100 - (0 if dtype == np.uint16 else 3000)).astype(dtype)
    path = tmp_path / "values.tif"
    tifffile.imwrite(path, values, photometric="minisblack")
    (loaded,) = load_images(path)
    np.testing.assert_array_equal(loaded.physical()[..., 0], values)
    assert loaded.exact


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_in_which_white_is_zero_is_turned_over(tmp_path, dtype):
    values = GREY.astype(dtype)
    tifffile.imwrite(tmp_path / "white.tif", values, photometric="miniswhite")
    (loaded,) = load_images(tmp_path / "white.tif")
    np.testing.assert_array_equal(loaded.pixels_YXC[..., 0], np.iinfo(dtype).max - values)


def test_colour_of_sixteen_bits_says_that_it_was_cut(tmp_path):
    values = COLOUR.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="rgb")
    (loaded,) = load_images(tmp_path / "deep.tif")
    np.testing.assert_array_equal(loaded.pixels_YXC, COLOUR)
    assert not loaded.exact


def test_pages_of_a_tiff():
    pages = [Image.fromarray(GREY + page) for page in range(3)]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    first = one(data, name="stack.tif")
    assert first.name == "stack.tif#0"
    np.testing.assert_array_equal(first.pixels_YXC[..., 0], GREY)
    every = load_images(data, frames="all")
    np.testing.assert_array_equal([page.pixels_YXC[0, 0, 0] for page in every], [0, 1, 2])


def test_what_is_no_picture_is_said_in_a_line(tmp_path):
    sound = saved(np.tile(COLOUR, (20, 20, 1)), "PNG")
    broken = {
        "cut.png": (sound[:-200], "damaged"),
        "cut.jpg": (saved(np.tile(COLOUR, (20, 20, 1)), "JPEG")[:-300], "damaged"),
        "scan.dcm": (b"The patient was seen on Monday.\n" * 40, "named .dcm but holds something else"),
        "page.png": (b"<!DOCTYPE html><html>404</html>", "HTML"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        "nothing.png": (b"", "empty"),
        "vector.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known kind"),
    }
    for name, (content, words) in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=words) as caught:
            load_images(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BadFile, match="no such file"):
        load_images(tmp_path / "absent.png")
    with pytest.raises(BadFile, match="is a folder"):
        load_images(tmp_path)


def test_decompression_bombs_are_refused(monkeypatch):
    bomb = saved(np.zeros((300, 300), np.uint8))
    monkeypatch.setattr(image, "PIXEL_LIMIT", 80_000)
    with pytest.raises(BadFile, match="300 x 300 pixels are more than the 80,000"):
        load_images(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadFile, match="decompression bomb"):
        load_images(bomb)


@given(
    st.sampled_from([np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64, np.float64]),
    st.integers(-(2**40), 2**40),
    st.lists(st.integers(0, 65535), min_size=1, max_size=20),
)
def test_integers_that_span_sixteen_bits_are_never_changed(dtype, base, steps):
    limits = (-(2**53), 2**53) if dtype == np.float64 else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    values = np.array([min(limits[1], max(limits[0], base + step)) for step in steps], dtype)
    stored, (step, offset), exact = to_stored("x", values)
    if dtype == np.float64 and abs(base) > 2**31:
        return  # floats of that size are measurements
    assert exact and step == 1.0 and stored.dtype == (np.uint8 if values.itemsize == 1 else np.uint16)
    assert [int(value) + int(offset) for value in stored] == [int(value) for value in values]


@given(st.lists(st.floats(-8e307, 8e307), min_size=1, max_size=20))
def test_other_numbers_are_within_half_a_step(values):
    values = np.array(values)
    stored, (step, offset), exact = to_stored("x", values)
    error = np.abs(stored * step + offset - values).max()
    # Half a step, and the rounding of numbers as large as the offset.
    assert error == 0 if exact else error <= step * 0.5 + 4 * np.spacing(np.abs(values).max())
