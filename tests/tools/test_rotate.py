"""``rotate`` against Pillow, and what turns of turns come to."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "flip", "invert"))
H, W = looks.SIZE
QUARTERS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def play_with(image: np.ndarray, **kinds) -> looks.Episode:
    return looks.Episode(looks.environment(*TOOLS), looks.bank([image], **kinds))


def by_pillow(image: np.ndarray, change, size=(W, H)) -> np.ndarray:
    """``change`` of each channel as a float image, then the resize to the view."""
    parts = [change(Image.fromarray(np.ascontiguousarray(image[..., c], np.float32))) for c in range(image.shape[2])]
    return np.stack([np.asarray(part.resize(size, Image.Resampling.BILINEAR)) for part in parts], axis=-1)


@pytest.mark.parametrize("degrees", [90, 180, 270, -90, -180, -270, 0, 360, -360])
@pytest.mark.parametrize("channels", [1, 3])
def test_quarter_turns_are_pillows_to_the_rounding(degrees, channels):
    """Half a level and float32, also where neither image nor view is square."""
    image = looks.noise(50, 61, channels, seed=degrees % 7)
    play = play_with(image)
    how = QUARTERS.get(degrees % 360)
    expected = by_pillow(image, lambda part: part.transpose(how) if how is not None else part)
    assert np.abs(play.pixels(play.call("rotate", degrees=degrees)) - expected).max() <= 0.51


def in_its_frame(image: np.ndarray, degrees: float, part=(0.0, 0.0, 1.0, 1.0)) -> np.ndarray:
    """Pillow's affine transform of the turned image in the frame that is not rounded to whole pixels.

    Args:
      part: x1 y1 x2 y2 of that frame, 0…1.
    """
    rows, columns = image.shape[:2]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    wide, high = abs(c) * columns + abs(s) * rows, abs(s) * columns + abs(c) * rows
    step_x, step_y = wide * (part[2] - part[0]) / W, high * (part[3] - part[1]) / H
    left, top = wide * (part[0] - 0.5), high * (part[1] - 0.5)
    x0, y0 = c * left - s * top + columns / 2, s * left + c * top + rows / 2
    data = (c * step_x, -s * step_y, x0, s * step_x, c * step_y, y0)
    how = (Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    parts = [Image.fromarray(image[..., k].astype(np.float32)).transform((W, H), *how) for k in range(image.shape[2])]
    return np.stack([np.asarray(part) for part in parts], axis=-1)


def near(shown: np.ndarray, image: np.ndarray, degrees: float, part=(0.0, 0.0, 1.0, 1.0)) -> bool:
    """Within 1.5 levels in the mean and 8 at the most, where a smooth image is; black where it is not.

    The view is cut out with antialiasing and then sampled bilinearly; Pillow's reference samples the original. Pixels
    whose neighbours in Pillow's are black lie half on the image and are not compared.
    """
    expected = in_its_frame(image, degrees, part)
    padded = np.pad(in_its_frame(np.full_like(image, 255), degrees, part), ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [padded[y : y + H, x : x + W] for y in range(3) for x in range(3)]
    on, off = np.min(around, axis=0) > 254, np.max(around, axis=0) == 0
    error = np.abs(shown - expected)[on]
    return on.mean() > 0.15 and error.mean() <= 1.5 and error.max() <= 8 and (shown[off] == 0).all()


@pytest.mark.parametrize("size", [(56, 64), (33, 64), (56, 20), (40, 40)])
@pytest.mark.parametrize("degrees", [30, -30, 45, 77, 135, 200, 301])
def test_any_angle_turns_a_smooth_image_as_pillow_does(degrees, size):
    image = looks.smooth(*size, 3, seed=2).round().astype(np.uint8)
    play = play_with(image)
    assert near(play.pixels(play.call("rotate", degrees=degrees)), image, degrees)


@pytest.mark.parametrize("degrees", [30, -77, 200])
def test_the_frame_is_that_of_pillows_expand(degrees):
    """Three levels in the mean: Pillow's frame is whole pixels wide, up to a pixel of the original more than ours."""
    image = looks.smooth(56, 64, seed=2).round().astype(np.uint8)
    play = play_with(image)
    turn = lambda part: part.rotate(degrees, Image.Resampling.BILINEAR, expand=True)  # noqa: E731
    on = by_pillow(np.full_like(image, 255), turn) > 254
    assert np.abs(play.pixels(play.call("rotate", degrees=degrees)) - by_pillow(image, turn))[on].mean() <= 3


def test_a_turn_is_counter_clockwise():
    image = np.zeros((40, 40, 1), np.uint8)
    image[:, 30:] = 255  # bright on the right goes up
    play = play_with(image)
    for degrees in (90, 80, 100):
        shown = play.pixels(play.call("rotate", degrees=degrees))[..., 0]
        assert shown[: H // 3].mean() > 80 and shown[-H // 3 :].mean() < 10


def test_two_turns_of_45_degrees_are_a_quarter_turn_in_a_wider_frame():
    """The box around a box is twice as wide: its middle half is the quarter turn, the rest is black.

    Two levels in the mean: a smooth image, sampled twice on other grids.
    """
    image = looks.smooth(48, 48, seed=3).round().astype(np.uint8)
    play = play_with(image)
    once = play.call("rotate", degrees=45)
    twice = play.call("rotate", degrees=45, image_index=once)
    middle = play.call("zoom_in", bbox_2d=[250, 250, 750, 750], image_index=twice)
    quarter = play.pixels(play.call("rotate", degrees=90)).astype(int)
    error = np.abs(play.pixels(middle)[2:-2, 2:-2] - quarter[2:-2, 2:-2])
    assert error.mean() <= 2 and error.max() <= 12
    frame = play.pixels(twice)
    assert (frame[: H // 5] == 0).all() and (frame[:, : W // 5] == 0).all() and (frame[-H // 5 :] == 0).all()


@pytest.mark.parametrize("degrees", [17, 45, 90, 150])
def test_turned_there_and_back_the_middle_is_the_image(degrees):
    image = looks.smooth(40, 60, seed=4).round().astype(np.uint8)
    play = play_with(image)
    there = play.call("rotate", degrees=degrees)
    back = play.call("rotate", degrees=-degrees, image_index=there)
    m = np.asarray(play.state.views.view.affine[0, back, 0])
    low = (np.array([0, 0]) - m[:, 2]) / np.diag(m[:, :2])
    high = (np.array([60, 40]) - m[:, 2]) / np.diag(m[:, :2])
    assert np.abs(m[[0, 1], [1, 0]]).max() < 1e-4 and np.allclose(low + high, 1, atol=1e-5)
    box = np.round(1000 * np.concatenate([low, high])).astype(int).tolist()
    shown = play.pixels(play.call("zoom_in", bbox_2d=box, image_index=back)).astype(int)
    error = np.abs(shown - play.pixels(0))[2:-2, 2:-2]
    assert error.mean() <= 1.5 and error.max() <= 8  # the box is a thousandth off, the picture moves with it


@pytest.mark.parametrize("degrees", [30, 90, 163])
def test_a_zoom_of_a_turned_view_is_the_part_of_the_turn(degrees):
    image = looks.smooth(56, 64, seed=5).round().astype(np.uint8)
    play = play_with(image)
    turned = play.call("rotate", degrees=degrees)
    shown = play.pixels(play.call("zoom_in", bbox_2d=[400, 300, 700, 600], image_index=turned))
    assert near(shown, image, degrees, (0.4, 0.3, 0.7, 0.6))


def test_a_turn_of_a_zoom_turns_about_the_middle_of_the_zoom():
    """The corners that the turn opens show what the original has there: a view is a window onto it."""
    image = looks.smooth(56, 64, seed=6).round().astype(np.uint8)
    play = play_with(image)
    zoomed = play.call("zoom_in", bbox_2d=[250, 250, 750, 750])
    shown = play.pixels(play.call("rotate", degrees=30, image_index=zoomed))
    # The frames of the zoom and of the whole have the same middle and, both turned, half the size.
    assert near(shown, image, 30, (0.25, 0.25, 0.75, 0.75))


def test_a_black_corner_stays_black_however_one_looks_at_it():
    image = looks.noise(40, 40, seed=8) // 2 + 100
    play = play_with(image)
    turned = play.call("rotate", degrees=45)
    corner = play.call("zoom_in", bbox_2d=[0, 0, 200, 200], image_index=turned)
    assert (play.pixels(corner) == 0).all()
    again = play.call("rotate", degrees=45, image_index=corner)  # upright again, and far from the image
    assert (play.pixels(again) == 0).all()
    assert (play.pixels(play.call("flip", direction="horizontal", image_index=again)) == 0).all()


@pytest.mark.parametrize("linear", [((80, 0), (0, 80)), ((-80, 0), (0, 80)), ((0, 80), (80, 0)), ((0, -80), (80, 0))])
def test_a_view_that_is_upright_to_the_bit_and_reaches_beyond_the_image_is_black_there(linear):
    """What two turns can come to when the roundings of their cosines cancel."""
    play = play_with(np.full((40, 40, 1), 200, np.uint8))
    index = play.call("rotate", degrees=45)
    linear = np.array(linear, np.float32)
    map_23 = np.concatenate([linear, (20 - linear.sum(1) / 2)[:, None]], axis=1)
    view = play.state.views.view
    views = play.state.views.replace(view=view.replace(affine=view.affine.at[0, index].set(map_23)))
    play.state = play.state.replace(views=views)
    shown = play.pixels(index)[..., 0]
    negative = play.pixels(play.call("invert", image_index=index))[..., 0]
    np.testing.assert_array_equal(negative, 255 - shown)  # black, and not NaN on its way to black
    assert (shown[H // 4 + 1 : -H // 4 - 1, W // 4 + 1 : -W // 4 - 1] == 200).all()
    assert (shown[: H // 4 - 1] == 0).all() and (shown[:, 1 - W // 4 :] == 0).all()


def test_an_upright_view_many_times_as_wide_as_the_image_shows_it_small_in_the_middle():
    play = play_with(np.full((40, 40, 1), 200, np.uint8))
    index = play.call("rotate", degrees=45)
    map_23 = np.array([[160, 0, -60], [0, 160, -60]], np.float32)
    view = play.state.views.view
    views = play.state.views.replace(view=view.replace(affine=view.affine.at[0, index].set(map_23)))
    play.state = play.state.replace(views=views)
    expected = np.zeros((H, W))
    expected[18:30, 15:25] = 200
    np.testing.assert_array_equal(play.pixels(index)[..., 0], expected)


def test_a_mirrored_view_turns_the_way_it_is_seen():
    image = looks.smooth(44, 60, seed=9).round().astype(np.uint8)
    play = play_with(image)
    mirrored = play.call("flip", direction="vertical")
    for degrees in (90, 30):
        assert near(play.pixels(play.call("rotate", degrees=degrees, image_index=mirrored)), image[::-1], degrees)


@pytest.mark.parametrize("degrees", [361, -361])
def test_angles_beyond_a_full_turn_are_faults(degrees):
    assert play_with(looks.noise(56, 64)).attempt("rotate", degrees=degrees)[0] == Fault.OUT_OF_RANGE


def test_no_angle_compiles_again():
    play = play_with(looks.noise(56, 64))
    play.pixels(play.call("rotate", degrees=1))
    before = looks.step._cache_size(), looks.render._cache_size()
    for degrees in (2, 90, -17):
        play.pixels(play.call("rotate", degrees=degrees))
    assert (looks.step._cache_size(), looks.render._cache_size()) == before
