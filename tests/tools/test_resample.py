"""Crops against exact weights in double precision, Pillow and ``jax.image``; angled views against SciPy."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from medvista_jax.data.implants import IMPLANTS, implant
from medvista_jax.tools import resample
from medvista_jax.tools.resample import (
    apply_window,
    crop_banded,
    crop_dense,
    crop_resize,
    sample_affine,
    triangle_weights,
)

BOXES = {  # x1 y1 x2 y2 as shares of the image
    "whole": (0.0, 0.0, 1.0, 1.0),
    "enlarged": (0.31, 0.42, 0.47, 0.55),
    "shrunk": (0.05, 0.1, 0.97, 0.88),
    "long": (0.1, 0.4, 0.9, 0.5),  # shrunk along x, enlarged along y
    "corner": (0.9, 0.0, 1.0, 0.07),
    "less than a pixel": (0.5, 0.5, 0.505, 0.507),
    "mirrored": (0.9, 0.2, 0.3, 0.7),
    "turned by half": (0.6, 0.95, 0.1, 0.05),
}
SIZES = [((53, 47), (16, 16)), ((64, 64), (17, 23)), ((31, 90), (40, 5))]  # rows, columns → height, width

crop = jax.jit(crop_resize, static_argnums=(4, 5))
banded = jax.jit(crop_banded, static_argnums=(5, 6))
dense = jax.jit(crop_dense, static_argnums=(5, 6))
sample = jax.jit(sample_affine, static_argnums=(2, 3))
weights_of = jax.jit(triangle_weights, static_argnums=(3, 4))


def noise(rows: int, columns: int, channels: int = 1, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (rows, columns, channels)).astype(dtype)


def boxes_in(rows: int, columns: int) -> np.ndarray:
    return (np.array(list(BOXES.values())) * [columns, rows, columns, rows]).astype(np.float32)


def random_boxes(count: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    corners = np.random.default_rng(seed).uniform(0, [columns, rows], (count, 2, 2))
    return corners.reshape(count, 4).astype(np.float32)


def crops(pixels: np.ndarray, box_B4: np.ndarray, height: int, width: int, size: tuple[int, int] | None = None):
    """All boxes on one image."""
    source_B = jnp.zeros(len(box_B4), jnp.int32)
    size_PO2 = jnp.array([[size or pixels.shape[:2]]], jnp.int32)
    return np.asarray(crop(jnp.asarray(pixels)[None, None], source_B, jnp.asarray(box_B4), size_PO2, height, width))


def by_weights(pixels: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """The kernel's definition, in double precision."""

    def weights(start: float, stop: float, size: int, out: int) -> np.ndarray:
        scale = (stop - start) / out
        centre = start + (np.arange(out) + 0.5) * scale - 0.5
        distance = np.abs(centre[:, None] - np.arange(size)) / max(abs(scale), 1.0)
        weight = np.maximum(0.0, 1.0 - distance)
        return weight / weight.sum(1, keepdims=True)

    x1, y1, x2, y2 = map(float, box)
    down, across = weights(y1, y2, pixels.shape[0], height), weights(x1, x2, pixels.shape[1], width)
    return np.einsum("hy,yxc,wx->hwc", down, pixels.astype(np.float64), across, optimize=True)


def by_jax(pixels: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    scale = jnp.array([height / (box[3] - box[1]), width / (box[2] - box[0])])
    shift = -jnp.array([box[1], box[0]]) * scale
    with jax.numpy_rank_promotion("allow"):  # its own code promotes
        return np.asarray(scale_and_translate(jnp.asarray(pixels, jnp.float32), (height, width), scale, shift))


@functools.partial(jax.jit, static_argnums=1)
def scale_and_translate(pixels, size, scale, shift):
    exact = jax.lax.Precision.HIGHEST
    shape = (*size, pixels.shape[-1])
    return jax.image.scale_and_translate(pixels, shape, (0, 1), scale, shift, "linear", True, exact)


def by_pillow(pixels: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's own arithmetic of 8-bit pixels or, for float32, of mode F."""
    x1, y1, x2, y2 = map(float, box)
    corners = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    planes = [Image.fromarray(np.ascontiguousarray(pixels[:, :, c])) for c in range(pixels.shape[-1])]
    assert {plane.mode for plane in planes} == {"F" if pixels.dtype == np.float32 else "L"}
    shown = [np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR, box=corners)) for plane in planes]
    return np.stack(shown, axis=-1)[:: 1 if y1 < y2 else -1, :: 1 if x1 < x2 else -1]


@pytest.mark.parametrize(("size", "out"), SIZES)
def test_crops_against_double_precision_pillow_and_jax(size, out):
    pixels, boxes = noise(*size, channels=3), boxes_in(*size)
    ours = crops(pixels, boxes, *out)
    assert ours.shape == (len(boxes), *out, 3) and ours.dtype == np.float32
    for name, box, shown in zip(BOXES, boxes, ours, strict=True):
        np.testing.assert_allclose(shown, by_weights(pixels, box, *out), atol=2e-4, err_msg=name)
        # Pillow subtracts the box's edges in float32: of 90 px that is 4e-6 px, and neighbours differ by up to 255.
        np.testing.assert_allclose(shown, by_pillow(pixels.astype(np.float32), box, *out), atol=3e-3, err_msg=name)
        # Pillow rounds twice, by a half at most.
        np.testing.assert_allclose(shown, by_pillow(pixels, box, *out).astype(float), atol=1.01, err_msg=name)
        if box[0] < box[2]:
            # jax.image has positions on the whole axis in float32.
            np.testing.assert_allclose(shown, by_jax(pixels, box, *out), atol=4e-3, err_msg=name)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_large_images_are_as_exact_as_of_small_ones(channels):
    """Blocks of rows, several steps of taps, and positions up to 900 px."""
    pixels = noise(700, 900, channels)
    boxes = np.concatenate([random_boxes(4, 700, 900), [[0, 0, 900, 700], [899.1, 3.3, 860.7, 698.9]]]).astype(
        np.float32
    )
    ours = crops(pixels, boxes, 96, 112)
    assert resample._block(96, 4 * 900 * channels) < 96 or channels == 1
    for box, shown in zip(boxes, ours, strict=True):
        np.testing.assert_allclose(shown, by_weights(pixels, box, 96, 112), atol=2e-4)


def test_pillow_agrees_to_three_thousandths_on_boxes_of_the_frame():
    """The design's figure, on boxes that a policy can name: multiples of 1/1000 of a 256 canvas."""
    pixels = noise(256, 256)
    corners = np.random.default_rng(3).integers(0, 1001, (20, 4))
    boxes = (np.concatenate([np.sort(corners[:, ::2]), np.sort(corners[:, 1::2])], 1)[:, [0, 2, 1, 3]] * 0.256).astype(
        np.float32
    )
    ours = crops(pixels, boxes, 64, 64)
    theirs = np.stack([by_pillow(pixels.astype(np.float32), box, 64, 64) for box in boxes])
    assert np.abs(ours - theirs).max() <= 3e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_and_matrix_products_agree(dtype):
    """On rows of two prompts with three originals each, of which some do not fill the canvas."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, np.iinfo(dtype).max, (2, 3, 40, 56, 2)).astype(dtype)
    size_B2 = rng.integers(9, 40, (12, 2))
    box = (rng.uniform(0, 1, (12, 4)) * size_B2[:, [1, 0, 1, 0]]).astype(np.float32)
    rows = (jnp.asarray(pixels), jnp.arange(12) // 6, jnp.asarray(rng.integers(0, 3, 12)), box, jnp.asarray(size_B2))
    gap = np.abs(banded(*rows, 8, 11) - dense(*rows, 8, 11)).max()
    assert gap <= 1e-4 * np.iinfo(dtype).max / 255  # they sum in another order


@pytest.mark.parametrize("function", [banded, dense])
def test_a_mirrored_box_is_the_mirror_image_to_the_bit(function):
    pixels = jnp.asarray(noise(37, 52, 3))[None, None]
    x1, y1, x2, y2 = 3.3, 5.2, 49.7, 18.9
    boxes = jnp.array([[x1, y1, x2, y2], [x2, y1, x1, y2], [x1, y2, x2, y1], [x2, y2, x1, y1]])
    zero_B = jnp.zeros(4, jnp.int32)
    plain, across, down, both = np.asarray(function(pixels, zero_B, zero_B, boxes, jnp.array([[37, 52]] * 4), 16, 12))
    np.testing.assert_array_equal(across, plain[:, ::-1])
    np.testing.assert_array_equal(down, plain[::-1])
    np.testing.assert_array_equal(both, plain[::-1, ::-1])


@pytest.mark.parametrize("function", [banded, dense])
def test_what_lies_on_the_canvas_beyond_the_image_is_not_seen(function):
    image = noise(21, 30)
    canvas = np.zeros((2, 1, 40, 48, 1), np.uint8)
    canvas[1] = 255
    canvas[:, 0, :21, :30] = image
    # Whole, and a corner that is enlarged: kernels reach over the border in both.
    boxes = np.array([[0, 0, 30, 21], [24.5, 17, 30, 21]] * 2, np.float32)
    prompt_B, size_B2 = jnp.array([0, 0, 1, 1]), jnp.array([[21, 30]] * 4)
    shown = np.asarray(function(jnp.asarray(canvas), prompt_B, jnp.zeros(4, jnp.int32), boxes, size_B2, 9, 9))
    np.testing.assert_array_equal(shown[:2], shown[2:])
    for view, box in zip(shown, boxes, strict=True):
        np.testing.assert_allclose(view, by_weights(image, box, 9, 9), atol=2e-4)


def test_size_is_that_of_the_original_a_row_looks_at():
    """A crop of each of four originals of different sizes, two a prompt, two rows an original."""
    sizes = np.array([[[20, 26], [13, 9]], [[8, 26], [20, 11]]])
    images = [[noise(*sizes[p, o], seed=2 * p + o) for o in range(2)] for p in range(2)]
    canvas = np.full((2, 2, 20, 26, 1), 200, np.uint8)
    for p in range(2):
        for o in range(2):
            canvas[p, o, : sizes[p, o, 0], : sizes[p, o, 1]] = images[p][o]
    source = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    looked = sizes[np.arange(8) // 4, source]
    boxes = (np.random.default_rng(0).uniform(0, 1, (8, 4)) * looked[:, [1, 0, 1, 0]]).astype(np.float32)
    shown = np.asarray(crop(jnp.asarray(canvas), jnp.asarray(source), boxes, jnp.asarray(sizes), 8, 9))
    for row in range(8):
        expected = by_weights(images[row // 4][source[row]], boxes[row], 8, 9)
        np.testing.assert_allclose(shown[row], expected, atol=2e-4)


def test_a_source_out_of_range_shows_the_prompts_own_images():
    pixels = np.stack([np.full((1, 4, 4, 1), level, np.uint8) for level in (10, 20, 30)])
    box = jnp.tile(jnp.array([[0.0, 0.0, 4.0, 4.0]]), (3, 1))
    shown = crop(jnp.asarray(pixels), jnp.array([-1, 5, 2]), box, jnp.full((3, 1, 2), 4), 2, 2)
    assert np.rint(np.asarray(shown))[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_a_crop_of_a_crop_is_the_crop_of_the_composed_box():
    """Where the first crop keeps the pixels and the second stays a kernel's reach away from its border."""
    pixels = noise(60, 70)
    first = crops(pixels, np.array([[10, 5, 60, 45]], np.float32), 40, 50)[0]
    np.testing.assert_array_equal(first, pixels[5:45, 10:60])
    inner = np.array([[6.3, 7.1, 40.2, 33.7]], np.float32)
    composed = inner + np.array([[10, 5, 10, 5]], np.float32)
    np.testing.assert_allclose(crops(first, inner, 9, 12), crops(pixels, composed, 9, 12), atol=3e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_reading_only_the_columns_a_box_shows_changes_no_bit(channels, monkeypatch):
    """Boxes as wide as each branch holds and a pixel more, at both borders, mirrored, and beyond the image."""
    rows, columns = 40, 300
    windows = resample._windows(columns)
    assert windows == [80, 144, 300]
    starts_stops = [(0, columns), (297.5, 299.5), (260, 340), (-60, 30), (-300, 300), (320, 380), (299, 0)]
    for window in windows[:-1]:
        for wide in (window - 2, window - 1.5, window, window + 1):
            starts_stops += [(0, wide), (300 - wide, 300), (70.3, 70.3 + wide), (71 + wide, 71)]
    box = np.array([(x1, 3.2, x2, 37.1) for x1, x2 in starts_stops], np.float32)
    zero_B = jnp.zeros(len(box), jnp.int32)
    size_B2 = jnp.full((len(box), 2), jnp.array([rows, columns]))
    operands = (jnp.asarray(noise(rows, columns, channels))[None, None], zero_B, zero_B, jnp.asarray(box), size_B2)
    ours = jax.jit(lambda *operands: crop_banded(*operands, 20, 32))(*operands)
    monkeypatch.setattr(resample, "WINDOWS", ())
    whole = jax.jit(lambda *operands: crop_banded(*operands, 20, 32))(*operands)
    np.testing.assert_array_equal(ours, whole)
    np.testing.assert_allclose(ours, dense(*operands, 20, 32), atol=1e-3)


@pytest.mark.parametrize("function", [crop_banded, crop_dense])
def test_rows_that_are_not_needed_are_zero_and_the_others_as_ever(function):
    image, box = noise(31, 40, 3) | 1, random_boxes(6, 31, 40)
    operands = (
        jnp.asarray(image)[None, None],
        jnp.zeros(6, jnp.int32),
        jnp.zeros(6, jnp.int32),
        box,
        jnp.array([[31, 40]] * 6),
    )
    program = jax.jit(lambda needed_B, *operands: function(*operands, 8, 9, needed_B))
    every = np.stack([by_weights(image, one, 8, 9) for one in box])
    for needed in ([1, 0, 0, 1, 1, 0], [0] * 6, [1] * 6, [0, 0, 0, 0, 0, 1]):
        needed_B = np.array(needed, bool)
        shown = np.asarray(program(needed_B, *operands))
        np.testing.assert_array_equal(shown[~needed_B], 0.0)
        np.testing.assert_allclose(shown[needed_B], every[needed_B], atol=2e-4)
    assert program._cache_size() == 1


def test_crop_resize_hands_on_which_rows_are_needed():
    pixels, size_PO2 = jnp.asarray(noise(12, 12) | 1)[None, None], jnp.array([[[12, 12]]])
    box_B4, needed_B = jnp.array([[0.0, 0.0, 12.0, 12.0]] * 3), jnp.array([True, False, True])
    shown = np.asarray(crop_resize(pixels, jnp.zeros(3, jnp.int32), box_B4, size_PO2, 4, 4, needed_B))
    assert shown.reshape(3, -1).any(axis=1).tolist() == [True, False, True]


def test_boxes_beside_the_image_show_nothing():
    shown = crops(noise(12, 12) | 1, np.array([[20, 0, 30, 12], [-9, -9, -2, -2]], np.float32), 4, 4)
    assert not shown.any()


def test_boxes_that_do_not_divide_among_prompts_are_refused():
    with pytest.raises(ValueError, match="5 boxes do not divide among the images of 2 prompts"):
        crop_resize(jnp.zeros((2, 1, 4, 4, 1)), jnp.zeros(5, int), jnp.zeros((5, 4)), jnp.full((2, 1, 2), 4), 2, 2)


def test_one_program_whatever_boxes_sources_and_sizes():
    program = jax.jit(lambda *rows: crop_resize(*rows, 8, 8))
    rng = np.random.default_rng(0)
    for seed in range(4):
        pixels = rng.integers(0, 256, (2, 2, 32, 32, 1)).astype(np.uint8)
        size = rng.integers(1, 33, (2, 2, 2)).astype(np.int32)
        program(pixels, rng.integers(0, 2, 6).astype(np.int32), random_boxes(6, 32, 32, seed), size)
    assert program._cache_size() == 1


def test_the_same_under_vmap_and_inside_loops():
    pixels = jnp.asarray(np.stack([noise(20, 20, seed=seed) for seed in range(2)]))[:, None]
    boxes, zero_B, size = jnp.asarray(random_boxes(4, 20, 20)), jnp.zeros(2, jnp.int32), jnp.full((1, 1, 2), 20)
    one = lambda image, box: crop_resize(image[None], zero_B, box, size, 8, 8)  # noqa: E731
    expected = np.stack([np.asarray(jax.jit(one)(pixels[i], boxes[2 * i : 2 * i + 2])) for i in range(2)])
    mapped = jax.jit(jax.vmap(one))(pixels, boxes.reshape(2, 2, 4))
    np.testing.assert_allclose(mapped, expected, atol=1e-4)

    def body(carry):
        turn, seen = carry
        box = jax.lax.dynamic_slice_in_dim(boxes, 2 * turn, 2)
        view = jax.lax.cond(turn >= 0, lambda: one(pixels[turn], box), lambda: jnp.zeros((2, 8, 8, 1)))
        return turn + 1, seen.at[turn].set(view)

    _, looped = jax.jit(lambda: jax.lax.while_loop(lambda c: c[0] < 2, body, (0, jnp.zeros((2, 2, 8, 8, 1)))))()
    np.testing.assert_allclose(looped, expected, atol=1e-4)


@pytest.mark.parametrize(("platform", "products", "loops"), [("tpu", 2, 0), ("cpu", 0, 1), ("cuda", 2, 0)])
def test_accelerators_get_matrix_products_and_cpus_bands(platform, products, loops):
    rows = (
        jnp.zeros((2, 1, 64, 64, 1), jnp.uint8),
        jnp.zeros(4, jnp.int32),
        jnp.zeros((4, 4)),
        jnp.full((2, 1, 2), 64),
    )
    exported = jax.export.export(jax.jit(lambda *rows: crop_resize(*rows, 8, 8)), platforms=[platform])(*rows)
    text = exported.mlir_module()
    assert text.count("stablehlo.dot_general") == products and text.count("HIGHEST") == 2 * products
    assert bool(text.count("stablehlo.while")) == bool(loops)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from medvista_jax.tools.resample import crop_dense, crop_resize
rng = np.random.default_rng(0)
pixels = rng.integers(0, 256, (4, 2, 24, 24, 1)).astype(np.uint8)
source, size = rng.integers(0, 2, 8), rng.integers(9, 25, (4, 2, 2))
box = rng.uniform(0, 9, (8, 4)).astype(np.float32)
data = NamedSharding(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
crop = lambda pixels, source, box, size: crop_resize(pixels, source, box, size, 8, 8)
dense = lambda pixels, prompt, source, box, size: crop_dense(pixels, prompt, source, box, size, 8, 8)
alone = jax.jit(crop)(pixels, source, box, size)
rows = [jax.device_put(x, data) for x in (pixels, source, box, size)]
spread = jax.jit(crop, out_shardings=data)(*rows)
assert spread.sharding == data and np.abs(np.asarray(alone) - np.asarray(spread)).max() < 1e-4
rows = [jax.device_put(x, data) for x in (pixels, np.arange(8) // 2, source, box, rng.integers(9, 25, (8, 2)))]
program = jax.jit(dense, out_shardings=data).lower(*rows).compile().as_text()
assert not any(word in program for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute")), program
"""


def test_sharded_rows_are_the_same_and_matrix_products_stay_on_their_device():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_weights_are_a_partition_and_dyadic_for_whole_reductions():
    rng = np.random.default_rng(1)
    start = rng.uniform(0, 200, 50).astype(np.float32)
    stop = (start + rng.uniform(0.01, 56, 50)).astype(np.float32)
    full = jnp.full(50, 256)
    weights = np.asarray(weights_of(jnp.asarray(start), jnp.asarray(stop), full, 256, 64))
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    thumbnail = np.asarray(weights_of(jnp.zeros(1), jnp.full((1,), 256.0), full[:1], 256, 64))[0]
    inner = thumbnail[1:-1]
    assert (inner * 32 == np.round(inner * 32)).all()  # 1/32, 3/32, 5/32, 7/32 and mirrored
    literal = np.array([1, 3, 5, 7, 7, 5, 3, 1]) / 32
    np.testing.assert_array_equal(inner[0, 2:10], literal)
    assert not inner[0, :2].any() and not inner[0, 10:].any()


@pytest.mark.parametrize("function", [banded, dense])
def test_thumbnails_of_whole_numbers_are_exact(function):
    """Sums of dyadic weights and 8-bit pixels need 18 bits: float32 rounds nothing."""
    pixels, zero_B = noise(256, 256), jnp.zeros(1, jnp.int32)
    box, size = jnp.array([[0.0, 0.0, 256.0, 256.0]]), jnp.array([[256, 256]])
    thumbnail = np.asarray(function(jnp.asarray(pixels)[None, None], zero_B, zero_B, box, size, 64, 64))[0]
    exact = by_weights(pixels, box[0], 64, 64)
    np.testing.assert_array_equal(thumbnail[1:-1, 1:-1], exact[1:-1, 1:-1].astype(np.float32))
    np.testing.assert_allclose(thumbnail, exact, atol=1e-4)  # edge weights are sevenths of something: not dyadic


@pytest.mark.parametrize("function", [banded, dense])
def test_thumbnails_of_all_classes_of_an_implant_are_the_same_to_the_bit(function):
    base = noise(256, 256)[..., 0]
    images = np.stack([implant(base, (106, 118), k) for k in range(len(IMPLANTS))])[:, None, ..., None]
    count = len(images)
    assert len(np.unique(images.reshape(count, -1), axis=0)) == count
    box, size = jnp.tile(jnp.array([[0.0, 0.0, 256.0, 256.0]]), (count, 1)), jnp.full((count, 2), 256)
    rows = (jnp.asarray(images), jnp.arange(count), jnp.zeros(count, jnp.int32), box, size)
    thumbnails = np.asarray(function(*rows, 64, 64)).reshape(count, -1)
    assert len(np.unique(thumbnails, axis=0)) == 2  # shapes and stripes lie on grounds of their own


def test_integer_pixels_need_no_cast():
    pixels = noise(12, 12, dtype=np.uint16)
    same = crops(pixels, np.array([[0, 0, 12, 12]], np.float32), 12, 12)[0]
    np.testing.assert_array_equal(same, pixels.astype(np.float32))  # the identity, up to the largest value


def by_scipy(levels: np.ndarray, affine: np.ndarray, height: int, width: int) -> np.ndarray:
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    x, y = affine.astype(np.float64) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    planes = [
        map_coordinates(plane, [y - 0.5, x - 0.5], order=1, mode="nearest") for plane in np.moveaxis(levels, -1, 0)
    ]
    inside = (x >= 0) & (x <= levels.shape[1]) & (y >= 0) & (y <= levels.shape[0])
    return np.where(inside[:, None], np.stack(planes, -1), 0.0).reshape(height, width, -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_at_an_angle_against_scipy(channels):
    rng = np.random.default_rng(4)
    levels = rng.uniform(0, 255, (6, 23, 31, channels)).astype(np.float32)
    angle, zoom = np.deg2rad([0, 7, 45, 133, 260, 359]), rng.uniform(0.3, 1.6, 6)
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    affine = np.stack([31 * cos, -31 * sin, 23 * sin, 23 * cos], -1).reshape(6, 2, 2)
    middle = np.array([15.5, 11.5]) - affine.sum(-1) / 2
    affine = np.concatenate([affine, middle[..., None]], -1).astype(np.float32)
    shown = np.asarray(sample(jnp.asarray(levels), jnp.asarray(affine), 17, 20))
    assert shown.shape == (6, 17, 20, channels) and shown.dtype == np.float32
    expected = np.stack([by_scipy(levels[row], affine[row], 17, 20) for row in range(6)])
    assert (expected == 0).any() and (expected != 0).mean() > 0.5
    # Positions in float32 on 31 px and a step of up to 255 between neighbours.
    np.testing.assert_allclose(shown, expected, atol=3e-3)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_are_those_of_numpy(turns):
    """On 16×8 pixels positions are exact."""
    levels = noise(8, 16, 2).astype(np.float32)
    affine = {
        0: [[16, 0, 0], [0, 8, 0]],
        1: [[0, -16, 16], [8, 0, 0]],  # anticlockwise: the first row shows the last column
        2: [[-16, 0, 16], [0, -8, 8]],
        3: [[0, 16, 0], [-8, 0, 8]],
    }[turns]
    turned = np.rot90(levels, turns)
    shown = sample(jnp.asarray(levels)[None], jnp.array([affine], jnp.float32), *turned.shape[:2])
    np.testing.assert_array_equal(np.asarray(shown)[0], turned)


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
