"""``adjust_window``: physical values and percentiles against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "flip", "pan_compare", "adjust_window"))


def scan(rows: int = 48, columns: int = 40, seed: int = 0) -> np.ndarray:
    """Stored values of a CT, 0…4095; as large as the view by default, so that nothing is resampled."""
    return np.random.default_rng(seed).integers(0, 4096, (rows, columns, 1)).astype(np.uint16)


def play_with(*images, rescale=None, windows=None, turns: int = 7) -> looks.Episode:
    windows = [[0, 4095]] * len(images) if windows is None else windows
    return looks.Episode(looks.environment(*TOOLS, turns=turns), looks.bank(images, windows=windows, rescale=rescale))


def levels(physical: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((physical - low) / (high - low), 0, 1) * 255


@pytest.mark.parametrize("rescale", [(1, 0), (1, -1024), (0.5, -200), (-1, 3000), (-0.25, 0)])
@pytest.mark.parametrize(("low", "high"), [(-160, 240), (0, 1), (-1000, 3000), (500, 65535)])
def test_a_window_in_physical_units(rescale, low, high):
    """Half a level of rounding; low is black, also where the slope is negative."""
    image = scan()
    play = play_with(image, rescale=[rescale])
    physical = image * float(rescale[0]) + rescale[1]
    shown = play.pixels(play.call("adjust_window", low=low, high=high))
    assert np.abs(shown - levels(physical, low, high)).max() <= 0.51


@pytest.mark.parametrize("rescale", [(1, 0), (1, -1024), (-2, 100)])
@pytest.mark.parametrize(("low", "high"), [(0, 100), (5, 95), (1, 2), (29, 58), (50, 51)])
def test_a_window_in_percentiles_is_numpys_inverted_cdf(rescale, low, high):
    """On a padded canvas with noise beyond: the ranks are of the image alone, exact. A prime number of pixels."""
    image = scan(1, 43).repeat(43, axis=0)[:, :41].astype(np.uint16)
    image[:] = np.random.default_rng(low).integers(0, 4096, image.shape)
    play = play_with(image, rescale=[rescale])
    index = play.call("adjust_window", low=low, high=high, unit="percentile")
    physical = image * float(rescale[0]) + rescale[1]
    expected = np.percentile(physical, [low, high], method="inverted_cdf")
    window = np.asarray(play.state.views.view.window[0, index, 0]) * rescale[0] + rescale[1]
    np.testing.assert_array_equal(window, expected)


@pytest.mark.parametrize("way", ["zoom", "flipped zoom", "quarter"])
def test_percentiles_are_of_the_pixels_within_the_view(way):
    image = scan(50, 60)
    play = play_with(image)
    index, part = 0, image
    if "zoom" in way:
        index, part = play.call("zoom_in", bbox_2d=[200, 100, 700, 520]), image[5:26, 12:42]
    if "flipped" in way:
        index = play.call("flip", direction="horizontal", image_index=index)
    if way == "quarter":
        index = play.call("rotate", degrees=90)
    index = play.call("adjust_window", low=10, high=83, unit="percentile", image_index=index)
    expected = np.percentile(part, [10, 83], method="inverted_cdf")
    np.testing.assert_array_equal(play.state.views.view.window[0, index, 0], expected)


def test_percentiles_of_a_tilted_view_are_of_the_whole_image_without_its_black_corners():
    image = scan(50, 60)
    play = play_with(image)
    index = play.call("adjust_window", low=10, high=83, unit="percentile", image_index=play.call("rotate", degrees=30))
    expected = np.percentile(image, [10, 83], method="inverted_cdf")
    np.testing.assert_array_equal(play.state.views.view.window[0, index, 0], expected)


def test_the_halves_of_a_pair_each_have_the_percentiles_and_the_units_of_their_own_image():
    images = [scan(50, 60), scan(40, 44, seed=1)]
    play = play_with(*images, rescale=[(1, -1024), (-2, 50)])
    pair = play.call(
        "pan_compare", left_box=[0, 0, 500, 1000], right_box=[0, 0, 1000, 500], image_index=0, right_image_index=1
    )
    index = play.call("adjust_window", low=20, high=60, unit="percentile", image_index=pair)
    window = np.asarray(play.state.views.view.window[0, index])
    np.testing.assert_array_equal(window[0], np.percentile(images[0][:, :30], [20, 60], method="inverted_cdf"))
    of_right = np.percentile(-2.0 * images[1][:20] + 50, [20, 60], method="inverted_cdf")
    np.testing.assert_array_equal(window[1] * -2 + 50, of_right)
    index = play.call("adjust_window", low=-100, high=300, image_index=pair)
    window = np.asarray(play.state.views.view.window[0, index])
    np.testing.assert_allclose(window, [[924, 1324], [75, -125]])


@pytest.mark.parametrize("rescale", [(1, 0), (-1, 0)])
def test_percentiles_that_fall_on_one_value_make_a_window_of_one_unit(rescale):
    play = play_with(np.full((48, 40, 1), 700, np.uint16), rescale=[rescale])
    index = play.call("adjust_window", low=5, high=95, unit="percentile")
    window = np.asarray(play.state.views.view.window[0, index, 0])
    assert window.tolist() == [700, 700 + rescale[0]] and (play.pixels(index) == 0).all()


def test_a_slope_of_0_counts_as_1():
    """No header can mean it, and some have it."""
    image = scan()
    shown, plain = (play_with(image, rescale=[(slope, -1024)]) for slope in (0, 1))
    for call in ({"low": -160, "high": 240}, {"low": 5, "high": 95, "unit": "percentile"}):
        images = [play.pixels(play.call("adjust_window", **call)) for play in (shown, plain)]
        np.testing.assert_array_equal(*images)


def test_eight_bit_colours_are_windowed_channel_by_channel():
    image = looks.noise(48, 40, 3)
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image]))
    np.testing.assert_array_equal(play.pixels(0), image)
    shown = play.pixels(play.call("adjust_window", low=40, high=200))
    assert np.abs(shown - levels(image.astype(float), 40, 200)).max() <= 0.51


def test_a_view_keeps_its_place():
    image = scan(50, 60)
    play = play_with(image)
    zoomed = play.call("zoom_in", bbox_2d=[200, 100, 700, 520])
    index = play.call("adjust_window", low=100, high=900, image_index=zoomed)
    again = play.call(
        "zoom_in", bbox_2d=[200, 100, 700, 520], image_index=play.call("adjust_window", low=100, high=900)
    )
    np.testing.assert_array_equal(play.pixels(index), play.pixels(again))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"low": 9, "high": 9}, Fault.OUT_OF_RANGE),
        ({"low": 10, "high": 9}, Fault.OUT_OF_RANGE),
        ({"low": -1, "high": 50, "unit": "percentile"}, Fault.OUT_OF_RANGE),
        ({"low": 1, "high": 101, "unit": "percentile"}, Fault.OUT_OF_RANGE),
        ({"low": 0, "high": 65536}, Fault.OUT_OF_RANGE),
        ({"low": 0}, Fault.MISSING_ARGUMENT),
        ({"low": "0", "high": 9}, Fault.WRONG_TYPE),
        ({"low": 0, "high": 9, "image_index": 4}, Fault.NO_SUCH_IMAGE),
    ],
)
def test_bad_arguments_are_faults(arguments, fault):
    assert play_with(scan()).attempt("adjust_window", **arguments)[0] == fault
