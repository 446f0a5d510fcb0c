"""``pan_compare``: halves against views of their own, and pairs under every other tool."""

from __future__ import annotations

import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks
from tests.tools.test_zoom_in import resized

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "flip", "pan_compare", "adjust_window", "invert"))
H, W = looks.SIZE
LEFT, RIGHT = [0, 200, 600, 1000], [300, 0, 1000, 500]


def images() -> list[np.ndarray]:
    return [looks.noise(50, 60, seed=1), looks.noise(40, 56, seed=2)]


def play_with(windows=((0, 255), (40, 200))) -> looks.Episode:
    return looks.Episode(looks.environment(*TOOLS, turns=9), looks.bank(images(), windows=windows))


def half(image: np.ndarray, box, window, size=(W // 2, H)) -> np.ndarray:
    """Pillow's crop of a box, in the window, float."""
    rows, columns = image.shape[:2]
    pixels = np.array(box) / 1000 * [columns, rows, columns, rows]
    return np.clip((resized(image, tuple(pixels), size) - window[0]) / (window[1] - window[0]), 0, 1) * 255


def pair_of(play: looks.Episode) -> int:
    return play.call("pan_compare", left_box=LEFT, right_box=RIGHT, image_index=0, right_image_index=1)


def close(shown, expected, levels: float = 0.51) -> bool:
    return np.abs(shown.astype(float) - expected).max() <= levels


def aside(shown, expected, reach: int, levels: float) -> bool:
    """``close`` but for the columns beside the seam and the border, which see across it: see the first test."""
    keep = [x for x in range(W) if min(x, abs(x - W // 2 + 0.5), W - 1 - x) >= reach]
    return close(shown[:, keep], expected[:, keep], levels)


def test_a_pair_of_two_originals_each_in_its_own_window():
    """Each half is Pillow's crop to half the width, to the rounding.

    A pair is sampled as two whole views and cut, so at the cut the antialiasing reaches into what lies beyond the box;
    Pillow's crop does not: a pixel and a half on each side of it is not compared.
    """
    play = play_with()
    shown = play.pixels(pair_of(play))
    expected = np.concatenate([half(images()[0], LEFT, (0, 255)), half(images()[1], RIGHT, (40, 200))], axis=1)
    assert aside(shown, expected, 2, 0.6)


def test_both_boxes_can_be_of_one_image_and_that_is_the_default():
    play = play_with()
    shown = play.pixels(play.call("pan_compare", left_box=LEFT, right_box=RIGHT, image_index=1))
    expected = np.concatenate([half(images()[1], box, (40, 200)) for box in (LEFT, RIGHT)], axis=1)
    assert aside(shown, expected, 2, 0.6)


def test_a_zoom_into_one_half_shows_that_half():
    play = play_with()
    pair = pair_of(play)
    left = play.pixels(play.call("zoom_in", bbox_2d=[100, 200, 400, 900], image_index=pair))
    right = play.pixels(play.call("zoom_in", bbox_2d=[600, 200, 900, 900], image_index=pair))
    one = play.call("zoom_in", bbox_2d=LEFT)
    two = play.call("zoom_in", bbox_2d=RIGHT, image_index=1)
    one = play.pixels(play.call("zoom_in", bbox_2d=[200, 200, 800, 900], image_index=one))
    two = play.pixels(play.call("zoom_in", bbox_2d=[200, 200, 800, 900], image_index=two))
    assert close(left, one, 1) and close(right, two, 1)


def test_a_zoom_across_the_seam_has_it_where_it_was():
    play = play_with()
    pair = pair_of(play)
    shown = play.pixels(play.call("zoom_in", bbox_2d=[400, 0, 800, 1000], image_index=pair))  # the seam at a quarter
    one = play.call("zoom_in", bbox_2d=LEFT)
    two = play.call("zoom_in", bbox_2d=RIGHT, image_index=1)
    one = play.pixels(play.call("zoom_in", bbox_2d=[800, 0, 1000, 1000], image_index=one))
    two = play.pixels(play.call("zoom_in", bbox_2d=[0, 0, 600, 1000], image_index=two))
    # The quarter to the left is one's zoom at a quarter of the width: compared where both are sampled finely enough.
    columns = W // 4
    assert np.abs(shown[:, :columns].mean(1) - one.mean(1)).max() < 12
    assert np.abs(shown[:, columns:].mean(1) - two.mean(1)).max() < 6
    assert np.abs(shown[:, columns:].mean(1) - one.mean(1)).max() > 30  # the noise of the two does differ so much


@pytest.mark.parametrize(("degrees", "axes"), [(90, 1), (180, 2), (270, 3), (-90, 3)])
def test_a_turned_pair_has_its_seam_turned_too(degrees, axes):
    """The shape of the view stays, so the halves of a quarter turn are compared with turned views of each half."""
    play = play_with()
    shown = play.pixels(play.call("rotate", degrees=degrees, image_index=pair_of(play)))
    one = play.call("rotate", degrees=degrees, image_index=play.call("zoom_in", bbox_2d=LEFT))
    two = play.call("rotate", degrees=degrees, image_index=play.call("zoom_in", bbox_2d=RIGHT, image_index=1))
    one, two = play.pixels(one).astype(float), play.pixels(two).astype(float)
    first, second = ((one, two), (two, one), (two, one), (one, two))[{1: 1, 2: 2, 3: 0}[axes]]
    upright = axes == 2
    parts = np.split(shown.astype(float), 2, axis=1 if upright else 0)
    for part, whole in zip(parts, (first, second), strict=True):
        axis = 0 if upright else 1  # along the seam both are sampled alike
        away = 1 - axis
        assert np.abs(part.mean(axis=away) - whole.mean(axis=away)).max() < 8 + 4 * (not upright)


def test_a_tilted_pair_has_a_tilted_seam():
    play = looks.Episode(
        looks.environment(*TOOLS, turns=9),
        looks.bank([np.full((40, 40, 1), 50, np.uint8), np.full((40, 40, 1), 200, np.uint8)]),
    )
    pair = play.call("pan_compare", left_box=[0, 0, 500, 1000], right_box=[0, 0, 500, 1000], right_image_index=1)
    shown = play.pixels(play.call("rotate", degrees=30, image_index=pair))[..., 0]
    # Counter-clockwise: the seam leans to the left at the top. The pair is 40 x 40, its frame 54.6 wide.
    v, u = (np.mgrid[:H, :W] + 0.5) / np.array([H, W])[:, None, None] - 0.5
    beyond = np.cos(np.pi / 6) * u - np.sin(np.pi / 6) * v  # in original pixels, over 54.6
    clear = np.abs(beyond) > 0.02
    centre = np.hypot(u, v) < 0.3
    assert (shown[(beyond > 0) & clear & centre] == 200).all() and (shown[(beyond < 0) & clear & centre] == 50).all()


def test_a_flipped_pair_has_swapped_halves():
    play = play_with()
    pair = pair_of(play)
    shown = play.pixels(play.call("flip", direction="horizontal", image_index=pair))
    assert close(shown, play.pixels(pair)[:, ::-1], 1)


def test_a_pair_of_pairs_takes_the_panel_on_which_a_box_lies():
    play = play_with()
    pair = pair_of(play)
    again = play.call("pan_compare", left_box=[500, 0, 1000, 1000], right_box=[0, 0, 500, 1000], image_index=pair)
    swapped = play.call("pan_compare", left_box=RIGHT, right_box=LEFT, image_index=1, right_image_index=0)
    assert close(play.pixels(again), play.pixels(swapped), 1)
    zoomed = play.call("zoom_in", bbox_2d=[500, 0, 1000, 1000], image_index=again)
    assert close(play.pixels(zoomed), half(images()[0], LEFT, (0, 255), (W, H)), 1)


def test_the_window_and_the_effects_of_a_pair():
    """Effects of the left image apply to the whole pair; a window is each half's own."""
    play = play_with()
    inverted = play.call("invert")
    pair = play.call("pan_compare", left_box=LEFT, right_box=RIGHT, image_index=inverted, right_image_index=1)
    assert close(play.pixels(pair), 255 - play.pixels(pair_of(play)).astype(float), 0)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"left_box": LEFT}, Fault.MISSING_ARGUMENT),
        ({"left_box": LEFT, "right_box": [5, 5, 5, 9]}, Fault.EMPTY_BOX),
        ({"left_box": LEFT, "right_box": RIGHT, "image_index": 2}, Fault.NO_SUCH_IMAGE),
        ({"left_box": LEFT, "right_box": RIGHT, "right_image_index": 2}, Fault.NO_SUCH_IMAGE),
        ({"left_box": LEFT, "right_box": RIGHT, "right_image_index": -2}, Fault.OUT_OF_RANGE),
    ],
)
def test_bad_arguments_are_faults(arguments, fault):
    assert play_with().attempt("pan_compare", **arguments)[0] == fault


def test_a_pair_of_whole_images_on_a_canvas_that_they_fill():
    """The band of a crop twice as wide as the canvas: noise, so that a weight left out would show."""
    left, right = looks.noise(56, 64, seed=3), looks.noise(56, 64, seed=4)
    play = looks.Episode(looks.environment(*TOOLS, size=(16, 24)), looks.bank([left, right]))
    whole = [0, 0, 1000, 1000]
    shown = play.pixels(play.call("pan_compare", left_box=whole, right_box=whole, right_image_index=1)).astype(float)
    expected = np.concatenate([resized(image, (0, 0, 64, 56), (12, 16)) for image in (left, right)], axis=1)
    assert close(shown, expected)
