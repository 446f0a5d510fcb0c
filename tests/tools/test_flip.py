"""``flip`` against Pillow's transpose."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "flip"))
FLIPS = {"horizontal": Image.Transpose.FLIP_LEFT_RIGHT, "vertical": Image.Transpose.FLIP_TOP_BOTTOM}


def transposed(shown: np.ndarray, how: Image.Transpose) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(shown[..., c]).transpose(how)) for c in range(shown.shape[2])], -1)


def close(shown: np.ndarray, expected: np.ndarray, levels: int = 1) -> bool:
    return np.abs(shown.astype(int) - expected).max() <= levels


def episode(channels: int = 1, canvas=looks.CANVAS, size=(56, 60)) -> looks.Episode:
    image = looks.noise(*size, channels, seed=7)
    return looks.Episode(looks.environment(*TOOLS), looks.bank([image], canvas=canvas))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("direction", FLIPS)
def test_a_flip_is_pillows(direction, channels):
    """Within one level: the mirrored weights are the same numbers but for float32."""
    play = episode(channels)
    shown = play.pixels(play.call("flip", direction=direction))
    assert close(shown, transposed(play.pixels(0), FLIPS[direction]))


@pytest.mark.parametrize("direction", FLIPS)
def test_a_flip_of_a_zoom_and_of_a_turned_view(direction):
    play = episode()
    zoomed = play.call("zoom_in", bbox_2d=[120, 300, 777, 801])
    quarter = play.call("rotate", degrees=90, image_index=zoomed)
    tilted = play.call("rotate", degrees=30)
    for view in (zoomed, quarter, tilted):
        shown = play.pixels(play.call("flip", direction=direction, image_index=view))
        assert close(shown, transposed(play.pixels(view), FLIPS[direction]), 1 if view != tilted else 2)


def test_two_flips_are_none_and_both_are_half_a_turn():
    play = episode()
    once = play.call("flip", direction="horizontal")
    twice = play.call("flip", direction="horizontal", image_index=once)
    np.testing.assert_array_equal(play.pixels(twice), play.pixels(0))
    both = play.call("flip", direction="vertical", image_index=once)
    assert close(play.pixels(both), play.pixels(play.call("rotate", degrees=180)))


def test_a_zoom_into_a_flipped_view_is_the_zoom_into_the_mirrored_box():
    play = episode()
    flipped = play.call("flip", direction="horizontal")
    left = play.call("zoom_in", bbox_2d=[0, 200, 250, 700], image_index=flipped)
    right = play.call("zoom_in", bbox_2d=[750, 200, 1000, 700])
    assert close(play.pixels(left), play.pixels(right)[:, ::-1])


def test_bad_arguments_are_faults():
    play = episode()
    assert play.attempt("flip")[0] == Fault.MISSING_ARGUMENT
    assert play.attempt("flip", direction="diagonal")[0] in (Fault.OUT_OF_RANGE, Fault.WRONG_TYPE)
    assert play.attempt("flip", direction="vertical", image_index=3)[0] == Fault.NO_SUCH_IMAGE
