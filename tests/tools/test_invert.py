"""``invert`` against Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "pan_compare", "adjust_window", "invert"))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_inverted_view_is_pillows_negative_to_the_bit(channels):
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(50, 61, channels)]))
    views = [0, play.call("zoom_in", bbox_2d=[0, 300, 400, 700]), play.call("rotate", degrees=30)]
    views.append(play.call("pan_compare", left_box=[0, 0, 500, 1000], right_box=[500, 0, 1000, 1000]))
    for view in views[1:3] if channels == 3 else views[::3]:
        shown = play.pixels(play.call("invert", image_index=view))
        for c in range(channels):
            expected = ImageChops.invert(Image.fromarray(play.pixels(view)[..., c]))
            np.testing.assert_array_equal(shown[..., c], np.asarray(expected))


def test_the_window_is_changed_beneath_the_negative():
    """What was black in the window stays white in the negative."""
    image = (looks.noise(56, 64).astype(int) * 200).astype(np.uint16)
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image], windows=[[0, 51000]]))
    inverted = play.call("invert")
    narrow = play.call("adjust_window", low=10000, high=20000, image_index=inverted)
    expected = 255 - play.pixels(play.call("adjust_window", low=10000, high=20000)).astype(int)
    np.testing.assert_array_equal(play.pixels(narrow), expected)


def test_two_negatives_are_none():
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(56, 64)]))
    index = play.call("invert", image_index=play.call("invert"))
    np.testing.assert_array_equal(play.pixels(index), play.pixels(0))


def test_bad_arguments_are_faults():
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(56, 64)]))
    assert play.attempt("invert", image_index=1)[0] == Fault.NO_SUCH_IMAGE
    assert play.attempt("invert", strength=1)[0] == Fault.UNKNOWN_ARGUMENT
    assert "image 1</tool_response>" in play.attempt("invert")[1]
