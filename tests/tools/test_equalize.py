"""``equalize`` against OpenCV's CLAHE."""

from __future__ import annotations

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.tools.equalize import clahe, count_by_product, count_by_scatter, look_up_by_gather, look_up_by_product
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "pan_compare", "adjust_window", "equalize", "invert"))
SIZES = [(64, 64), (48, 40), (50, 61), (56, 61), (72, 64)]

apply = jax.jit(clahe)


def by_opencv(levels: np.ndarray, limit: int) -> np.ndarray:
    return cv2.createCLAHE(float(limit), (8, 8)).apply(np.ascontiguousarray(levels, np.uint8)).astype(int)


def pictures(size):
    yield looks.noise(*size)[..., 0]
    yield looks.smooth(*size).round().astype(np.uint8)[..., 0]
    yield np.full(size, 77, np.uint8)
    yield (looks.noise(*size, seed=3)[..., 0] > 250).astype(np.uint8) * 255  # almost all black
    yield np.linspace(100, 120, size[0] * size[1]).reshape(size).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_clahe_is_opencvs_to_the_rounding(size):
    """Tables are the same; the bilinear mean of four may fall on the other side of a half: one level, in few pixels."""
    for levels in pictures(size):
        for limit in (1, 2, 4, 13, 40):
            ours = np.asarray(apply(levels.astype(np.int32), limit))
            error = np.abs(ours - by_opencv(levels, limit))
            assert error.max() <= 1 and (error > 0).mean() < 0.01


def test_no_clip_limit_compiles_again():
    apply(np.zeros((64, 64), np.int32), 2)
    before = apply._cache_size()
    for limit in (1, 3, 40):
        apply(np.ones((64, 64), np.int32), limit)
    assert apply._cache_size() == before


def test_the_products_for_tpus_are_the_scatter_and_the_gather():
    rng = np.random.default_rng(0)
    tiles_NM = rng.integers(0, 256, (64, 35)).astype(np.int32)
    np.testing.assert_array_equal(jax.jit(count_by_product)(tiles_NM), jax.jit(count_by_scatter)(tiles_NM))
    levels, around = rng.integers(0, 256, (38, 55)).astype(np.int32), rng.integers(0, 256, (9, 9, 256, 4))
    around = jnp.asarray(around, jnp.int32)
    cell_h, cell_w = (np.arange(38) + 2) // 5, (np.arange(55) + 3) // 7
    found = jax.jit(look_up_by_product, static_argnums=(2, 3))(levels, around, 5, 7)
    np.testing.assert_array_equal(found, look_up_by_gather(levels, around, cell_h, cell_w))


def test_a_tpu_multiplies_where_a_cpu_scatters():
    lowered = {
        platform: apply.trace(np.zeros((64, 64), np.int32), 2).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu")
    }
    assert "stablehlo.scatter" in lowered["cpu"] and "dot_general" not in lowered["cpu"]
    assert "stablehlo.scatter" not in lowered["tpu"] and "dot_general" in lowered["tpu"]


@pytest.mark.parametrize("view", ["whole", "zoom", "quarter", "tilted", "pair"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_view_is_equalised_as_it_is_shown(view, depth):
    """On a canvas with noise beyond the image, of the levels that the policy sees without it."""
    image = (looks.noise(50, 61, seed=1).astype(int) * (1 if depth == np.uint8 else 200)).astype(depth)
    windows = None if depth == np.uint8 else [[4000, 40000]]
    rescale = None if depth == np.uint8 else [[1, -1024]]
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image], windows=windows, rescale=rescale))
    index = {
        "whole": lambda: 0,
        "zoom": lambda: play.call("zoom_in", bbox_2d=[100, 0, 600, 400]),
        "quarter": lambda: play.call("rotate", degrees=90),
        "tilted": lambda: play.call("rotate", degrees=30),
        "pair": lambda: play.call("pan_compare", left_box=[0, 0, 300, 300], right_box=[300, 300, 900, 900]),
    }[view]()
    shown = play.pixels(play.call("equalize", clip_limit=6, image_index=index))[..., 0].astype(int)
    assert np.abs(shown - by_opencv(play.pixels(index)[..., 0], 6)).max() <= 1


def test_a_zoom_into_an_equalised_view_is_the_equalised_zoom():
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(56, 64, seed=2)]))
    equalised = play.call("equalize")
    inside = play.call("zoom_in", bbox_2d=[200, 200, 700, 700], image_index=equalised)
    zoomed = play.call("zoom_in", bbox_2d=[200, 200, 700, 700])
    assert np.abs(play.pixels(inside)[..., 0] - by_opencv(play.pixels(zoomed)[..., 0], 4)).max() <= 1


def test_effects_stack_in_the_order_of_the_calls():
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.smooth(56, 64).round().astype(np.uint8)]))
    before = play.pixels(0)[..., 0].astype(int)
    inverted = play.call("invert")
    equalised = play.call("equalize", clip_limit=9)
    one = play.pixels(play.call("equalize", clip_limit=9, image_index=inverted))[..., 0]
    other = play.pixels(play.call("invert", image_index=equalised))[..., 0]
    assert np.abs(one - by_opencv(255 - before, 9)).max() <= 1
    assert np.abs(other - (255 - by_opencv(before, 9))).max() <= 1
    assert np.abs(one.astype(int) - other).max() > 3  # the order matters


def test_of_colours_the_luminance_is_equalised_and_the_hue_stays():
    """Luminance by integers in numpy. The product is rounded to levels; dark pixels have no exact hue."""
    image = looks.smooth(56, 64, 3, seed=6).round().astype(np.uint8)
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image]))
    before = play.pixels(0).astype(int)
    grey = (before @ [299, 587, 114] + 500) // 1000
    wanted = by_opencv(grey, 8)
    shown = play.pixels(play.call("equalize", clip_limit=8)).astype(float)
    gain = np.minimum(wanted / np.maximum(grey, 1), 255 / np.maximum(before.max(-1), 1))
    lit = grey > 40
    assert np.abs(shown - before * gain[..., None])[lit].max() <= 4  # one level of luminance at 40 is 2.5 % of 160
    unclipped = lit & (wanted / np.maximum(grey, 1) * before.max(-1) < 250)
    again = shown @ np.array([0.299, 0.587, 0.114])
    assert unclipped.mean() > 0.2 and np.abs(again - wanted)[unclipped].max() <= 2
    hue = lambda rgb: rgb / rgb.sum(-1, keepdims=True)  # noqa: E731
    assert np.abs(hue(shown[lit]) - hue(before[lit])).max() < 0.02


def test_black_pixels_of_a_colour_image_become_grey():
    image = np.zeros((56, 64, 3), np.uint8)
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image]))
    shown = play.pixels(play.call("equalize"))
    assert (shown == shown[..., :1]).all()
    assert (shown[..., 0] == by_opencv(np.zeros(looks.SIZE), 4)).all()


@pytest.mark.parametrize(
    ("limit", "fault"), [(0, Fault.OUT_OF_RANGE), (41, Fault.OUT_OF_RANGE), ("4", Fault.WRONG_TYPE)]
)
def test_bad_arguments_are_faults(limit, fault):
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(56, 64)]))
    assert play.attempt("equalize", clip_limit=limit)[0] == fault


def test_the_call_says_which_image_came_of_it():
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(56, 64)]))
    assert "image 1</tool_response>" in play.attempt("equalize")[1]
