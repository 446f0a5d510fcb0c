"""``edge_map`` against SciPy's Gaussian and scikit-image's Sobel filter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import sobel

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "flip", "pan_compare", "edge_map"))


def expected(levels: np.ndarray, smoothing: int) -> np.ndarray:
    """In float64. scikit-image's ``sobel`` is the root of the *mean* of both squares, ours of their sum.

    A smoothed step is less steep: the scale makes up for it.
    """
    colours = levels.shape[-1] == 3
    grey = (levels.astype(int) @ [299, 587, 114] + 500) // 1000 if colours else levels[..., 0]
    grey = grey.astype(float)
    smooth = ndimage.gaussian_filter(grey, smoothing, mode="nearest", truncate=4.0) if smoothing else grey
    full = np.zeros(64) + 255.0 * (np.arange(64) >= 32)
    full = ndimage.gaussian_filter1d(full, smoothing, truncate=4.0) if smoothing else full
    most = np.max(full[2:] - full[:-2])
    return np.minimum(np.sqrt(2) * sobel(smooth, mode="nearest") * 255 / most, 255)


@pytest.mark.parametrize("smoothing", [0, 1, 2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_edge_map_is_the_gradient_of_what_was_shown(smoothing, channels):
    """Half a level of rounding and float32's share of it; every kind of view."""
    image = looks.noise(50, 61, channels, seed=smoothing)
    play = looks.Episode(looks.environment(*TOOLS, turns=12), looks.bank([image]))
    views = [0, play.call("zoom_in", bbox_2d=[100, 0, 600, 400]), play.call("rotate", degrees=90)]
    views += [play.call("rotate", degrees=30), play.call("flip", direction="vertical")]
    views.append(play.call("pan_compare", left_box=[0, 0, 300, 300], right_box=[300, 300, 900, 900]))
    for view in views[smoothing % 2 :: 2]:
        shown = play.pixels(play.call("edge_map", smoothing=smoothing, image_index=view))
        assert (shown == shown[..., :1]).all()
        assert np.abs(shown[..., 0] - expected(play.pixels(view), smoothing)).max() <= 0.51


def test_sixteen_bits_have_their_edges_where_they_are_shown():
    image = (looks.noise(56, 64).astype(int) * 200).astype(np.uint16)
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image], windows=[[4000, 30000]]))
    shown = play.pixels(play.call("edge_map"))[..., 0]
    assert np.abs(shown - expected(play.pixels(0), 1)).max() <= 0.51


def test_a_step_from_black_to_white_is_white_and_the_border_of_a_view_is_no_edge():
    image = np.zeros((*looks.SIZE, 1), np.uint8)
    image[:, 20:] = 255
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image]))
    for smoothing in (0, 1, 2, 3):
        shown = play.pixels(play.call("edge_map", smoothing=smoothing))[..., 0]
        assert (shown[:, 19:21] >= 254).all() and (shown[:, :19].max() < 255)
    shown = play.pixels(1)[..., 0]
    assert (shown[:, 19:21] == 255).all() and (np.delete(shown, [19, 20], axis=1) == 0).all()
    image[:] = 255
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([image]))
    assert (play.pixels(play.call("edge_map", smoothing=3)) == 0).all()


def test_a_zoom_into_an_edge_map_has_the_edges_of_the_zoom():
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(56, 64, seed=2)]))
    inside = play.call("zoom_in", bbox_2d=[200, 200, 700, 700], image_index=play.call("edge_map", smoothing=2))
    zoomed = play.call("zoom_in", bbox_2d=[200, 200, 700, 700])
    assert np.abs(play.pixels(inside)[..., 0] - expected(play.pixels(zoomed), 2)).max() <= 0.51


@pytest.mark.parametrize("smoothing", [-1, 4])
def test_bad_arguments_are_faults(smoothing):
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(56, 64)]))
    assert play.attempt("edge_map", smoothing=smoothing)[0] == Fault.OUT_OF_RANGE
    assert "image 1</tool_response>" in play.attempt("edge_map")[1]


def test_no_smoothing_compiles_again():
    play = looks.Episode(looks.environment(*TOOLS), looks.bank([looks.noise(56, 64)]))
    play.pixels(play.call("edge_map"))
    before = looks.step._cache_size(), looks.render._cache_size()
    for smoothing in (0, 2, 3):
        play.pixels(play.call("edge_map", smoothing=smoothing))
    assert (looks.step._cache_size(), looks.render._cache_size()) == before
