"""Promise 7: a crop of a crop composes its boxes and resamples the original pixels."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests import tiny

FIRST, SECOND = (100, 200, 600, 900), (0, 0, 500, 500)  # tiny.ZOOM, tiny.ZOOM_AGAIN
VIEW = tiny.MODEL.image_size


def compose(outer, inner) -> np.ndarray:
    outer, inner = np.array(outer, np.float64), np.array(inner, np.float64) / 1000
    size = outer[2:] - outer[:2]
    return np.concatenate([outer[:2] + inner[:2] * size, outer[:2] + inner[2:] * size])


def shown_by_pillow(pixels: np.ndarray, box: np.ndarray, window) -> np.ndarray:
    rows, columns = pixels.shape
    image = Image.fromarray(pixels.astype(np.float32))
    corners = (box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows)
    grey = np.asarray(image.resize(VIEW[::-1], Image.Resampling.BILINEAR, box=corners), np.float64)
    return np.clip((grey - window[0]) / (window[1] - window[0]), 0, 1) * 255


@pytest.fixture(scope="module")
def episode():
    """Row 0: zoom, zoom into the zoom. Row 1: window, then zoom into that. Row 2: zoom twice into the original."""
    question = tiny.make_question()
    turns = [(tiny.ZOOM, tiny.ZOOM_AGAIN), (tiny.WINDOW, tiny.ZOOM_AGAIN), (tiny.ZOOM, tiny.ZOOM)]
    script = tiny.make_script(turns)
    state = tiny.reset(tiny.environment(), question, 1)
    for turn in range(2):
        state, _ = tiny.step(tiny.environment(), state, script.tokens_BRT[:, turn], script.length_BR[:, turn])
    assert np.asarray(state.views.count_B).tolist() == [3, 3, 3]
    pixels = [
        np.asarray(tiny.render_views(tiny.environment(), question.bank, state.views, jnp.full(3, slot)))[..., 0]
        for slot in range(3)
    ]
    return question, state, pixels


def test_boxes_compose(episode):
    _, state, _ = episode
    boxes = tiny.boxes_of(state.views)
    whole = np.array([0.0, 0, 1, 1])
    outer = compose(whole, FIRST)
    expected = [
        [whole, outer, compose(outer, SECOND)],
        [whole, whole, compose(whole, SECOND)],
        [whole, outer, outer],
    ]
    np.testing.assert_allclose(boxes, expected, atol=2e-7)  # float32 of some thirty pixels, over thirty


def test_pixels_are_a_crop_of_the_original(episode):
    question, state, pixels = episode
    window = np.asarray(question.bank.window_PO2[0, 0], np.float64)
    original = np.asarray(question.bank.pixels_POYXC[0, 0, :, :, 0])
    composed = compose(compose((0, 0, 1, 1), FIRST), SECOND)
    expected = shown_by_pillow(original, composed, window)
    assert np.abs(pixels[2][0] - expected).max() <= 0.5 + 1e-2  # the view is rounded to 8 bits, and nothing else
    outer = shown_by_pillow(original, compose((0, 0, 1, 1), FIRST), window)
    of_the_view = shown_by_pillow(np.round(outer), np.array(SECOND) / 1000, (0, 255))
    assert np.abs(pixels[2][0] - of_the_view).max() > 10  # the intermediate picture would look otherwise


def test_windows_are_inherited(episode):
    question, state, pixels = episode
    assert np.asarray(state.views.view.window[1, :, 0]).tolist()[1:] == [[0.0, 30_000.0]] * 2
    original = np.asarray(question.bank.pixels_POYXC[1, 0, :, :, 0])
    expected = shown_by_pillow(original, np.array([0.0, 0, 0.5, 0.5]), (0.0, 30_000.0))
    assert np.abs(pixels[2][1] - expected).max() <= 0.5 + 1e-2
    whole = shown_by_pillow(original, np.array([0.0, 0, 1, 1]), np.asarray(question.bank.window_PO2[1, 0]))
    assert np.abs(pixels[0][1] - whole).max() <= 0.5 + 1e-2


def test_the_index_names_the_image(episode):
    """Index 0 is the question's image however many views there are."""
    _, _, pixels = episode
    np.testing.assert_array_equal(pixels[1][2], pixels[2][2])
    assert not np.array_equal(pixels[0][2], pixels[1][2])


def test_the_policy_sees_what_the_recipe_says():
    """Features of the rollout's views are those of the rendered recipe, slot by slot."""
    question = tiny.make_question()
    t = tiny.played(tiny.make_script(tiny.MIXED), question)
    for slot in range(3):
        pixels = tiny.render_views(tiny.environment(), question.bank, t.views, jnp.full(6, slot))
        expected = np.asarray(tiny.encode(tiny.params(), pixels))
        used = np.asarray(t.views.count_B) > slot
        np.testing.assert_allclose(np.asarray(t.features_BILE[:, slot])[used], expected[used], atol=2e-5)
    assert used.sum() == 1
