"""``zoom_in`` against Pillow, and that zooms compose."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = (ALL_TOOLS["zoom_in"],)
H, W = looks.SIZE


def resized(levels: np.ndarray, box, size=(W, H)) -> np.ndarray:
    """Pillow's bilinear resize of ``box`` in pixels, in float32: no rounding between its two passes."""
    parts = [
        Image.fromarray(np.ascontiguousarray(levels[..., c], np.float32)).resize(size, Image.Resampling.BILINEAR, box)
        for c in range(levels.shape[2])
    ]
    return np.stack([np.asarray(part) for part in parts], axis=-1)


def episode(*images, **kinds) -> looks.Episode:
    return looks.Episode(looks.environment(*TOOLS), looks.bank(images, **kinds))


@pytest.mark.parametrize("box", [(0, 0, 1000, 1000), (100, 250, 850, 900), (333, 0, 334, 1000), (0, 990, 10, 1000)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_zoom_is_pillows_crop_and_resize(box, channels):
    """Within half a level of Pillow's float resize, plus its float32: the view is rounded to whole levels."""
    image = looks.noise(50, 61, channels)
    play = episode(image)
    pixels = np.array(box) / 1000 * [61, 50, 61, 50]
    shown = play.pixels(play.call("zoom_in", bbox_2d=list(box)))
    assert np.abs(shown - resized(image, pixels)).max() <= 0.51


def test_stored_values_of_16_bits_pass_the_window_after_the_resize():
    image = (looks.noise(40, 64, seed=3).astype(np.uint16) * 200).astype(np.uint16)
    play = episode(image, windows=[[5000, 30000]])
    shown = play.pixels(play.call("zoom_in", bbox_2d=[0, 500, 500, 1000]))
    expected = np.clip((resized(image, (0, 20, 32, 40)) - 5000) / 25000, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.52


def test_a_crop_of_a_crop_is_the_crop_of_the_composed_box():
    """Many random nests, up to five deep, within one level: the composed box is cut by Pillow in one go.

    A box of thousandths holds the composed box only by rounding, so the reference takes it in float64.
    """
    rng = np.random.default_rng(4)
    image = looks.noise(56, 64, 3, seed=4)
    worst = 0.0
    for _ in range(25):
        play, index, box = episode(image), 0, np.array([0.0, 0.0, 1.0, 1.0])
        for _ in range(rng.integers(2, 6)):
            low, high = np.sort(rng.choice(1001, (2, 2), replace=False), axis=0)
            if (high - low).min() < 50:
                continue
            inner = [*low.tolist(), *high.tolist()]
            index = play.call("zoom_in", bbox_2d=inner, image_index=index)
            span = np.tile(box[2:] - box[:2], 2)
            box = np.tile(box[:2], 2) + np.array(inner) / 1000 * span
        expected = resized(image, tuple(box * [64, 56, 64, 56]))
        worst = max(worst, np.abs(play.pixels(index) - expected).max())
    assert worst <= 1.0


def test_a_nest_with_round_boxes_is_the_one_box_to_the_bit():
    image = looks.noise(56, 64, seed=5)
    play = episode(image)
    outer = play.call("zoom_in", bbox_2d=[0, 500, 500, 1000])
    nested = play.call("zoom_in", bbox_2d=[500, 0, 1000, 500], image_index=outer)
    at_once = play.call("zoom_in", bbox_2d=[250, 500, 500, 750])
    np.testing.assert_array_equal(play.pixels(nested), play.pixels(at_once))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"bbox_2d": [5, 5, 5, 9]}, Fault.EMPTY_BOX),
        ({"bbox_2d": [9, 5, 5, 9]}, Fault.EMPTY_BOX),
        ({"bbox_2d": [0, 0, 9, 1001]}, Fault.OUT_OF_RANGE),
        ({"bbox_2d": [0, 0, 9]}, Fault.WRONG_TYPE),
        ({}, Fault.MISSING_ARGUMENT),
        ({"bbox_2d": [0, 0, 9, 9], "image_index": 1}, Fault.NO_SUCH_IMAGE),
    ],
)
def test_bad_arguments_are_faults(arguments, fault):
    assert episode(looks.noise(56, 64, seed=5)).attempt("zoom_in", **arguments)[0] == fault


def test_an_image_can_be_any_that_was_returned():
    play = episode(looks.noise(56, 64), looks.noise(30, 20, seed=1))
    index = play.call("zoom_in", bbox_2d=[0, 0, 500, 1000], image_index=1)
    expected = resized(looks.noise(30, 20, seed=1), (0, 0, 10, 30))
    assert index == 2 and np.abs(play.pixels(2) - expected).max() <= 0.51
