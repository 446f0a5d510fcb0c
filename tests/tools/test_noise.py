"""Tools that miss: the box that is shown, how far off it is, and that the miss is a function of the call."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from medvista_jax.tools.base import Originals, Sight
from medvista_jax.tools.noise import Noise, displaced, noisy
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

ZOOM, PAN = ALL_TOOLS["zoom_in"], ALL_TOOLS["pan_compare"]


def many(box, noise, count=4000):
    keys = jax.random.split(jax.random.key(1), count)
    return np.asarray(jax.vmap(lambda key: displaced(jnp.array(box, jnp.int32), noise, key))(keys))


def test_displacements_are_normal_and_keep_the_size():
    moved_N4 = many([400, 450, 600, 700], Noise(spread=40.0))
    assert (moved_N4[:, 2] - moved_N4[:, 0] == 200).all() and (moved_N4[:, 3] - moved_N4[:, 1] == 250).all()
    for axis, middle in ((0, 400), (1, 450)):
        offset = moved_N4[:, axis] - middle
        assert (
            stats.kstest(offset + np.random.default_rng(0).uniform(-0.5, 0.5, len(offset)), "norm", (0, 40)).pvalue
            > 1e-3
        )
    assert abs(np.corrcoef(moved_N4[:, 0], moved_N4[:, 1])[0, 1]) < 0.06


def test_wrong_calls_are_as_many_as_said_and_land_anywhere():
    moved_N4 = many([400, 400, 600, 600], Noise(wrong=0.3))
    elsewhere = (moved_N4[:, :2] != 400).any(axis=1)
    assert stats.binomtest(int(elsewhere.sum()), len(elsewhere), 0.3).pvalue > 1e-3
    assert stats.kstest(moved_N4[elsewhere, 0] / 800, "uniform").pvalue > 1e-3


def test_a_box_stays_inside():
    for box in ([0, 0, 1000, 1000], [0, 990, 10, 1000], [700, 0, 1000, 300]):
        moved_N4 = many(box, Noise(spread=500.0, wrong=0.2), 500)
        assert moved_N4.min() >= 0 and moved_N4.max() <= 1000
        assert (moved_N4[:, 2:] - moved_N4[:, :2] == np.subtract(box[2:], box[:2])).all()


def carried_out(tool, noise, bank, *boxes):
    """The boxes that a tool's kernel gets to see where a call names others."""
    seen = []
    spy = dataclasses.replace(tool, kernel=lambda arguments_A, sight: seen.append(np.asarray(arguments_A)))
    fields = ("pixels_POYXC", "window_PO2", "count_P", "size_PO2", "spacing_PO2", "rescale_PO2")
    originals = Originals(*(getattr(bank, name)[0] for name in fields))
    arguments_A = jnp.array([*np.ravel(boxes), 0], jnp.int32)
    noisy(spy, noise).kernel(arguments_A, Sight(view=None, views=None, originals=originals))
    return seen[0][:-1].reshape(-1, 4).tolist()


def test_the_view_is_that_of_the_displaced_box():
    """In the gym, within the rounding of a view to whole levels: Pillow's resize of the displaced box."""
    image = looks.noise(50, 61, 1)
    bank, noise, named = looks.bank([image]), Noise(spread=60.0), [300, 300, 700, 700]
    (moved,) = carried_out(ZOOM, noise, bank, named)
    play = looks.Episode(looks.environment(noisy(ZOOM, noise)), bank)
    missed, again = (play.pixels(play.call("zoom_in", bbox_2d=named))[..., 0] for _ in range(2))
    np.testing.assert_array_equal(missed, again)
    levels = Image.fromarray(image[..., 0].astype(np.float32))
    shown = {}
    for name, box in {"moved": moved, "named": named}.items():
        pixels = tuple(np.array(box) / 1000 * [61, 50, 61, 50])
        shown[name] = np.asarray(levels.resize(looks.SIZE[::-1], Image.Resampling.BILINEAR, pixels))
    assert np.abs(missed - shown["moved"]).max() <= 0.51
    assert np.abs(missed - shown["named"]).max() > 5


def test_another_call_image_or_seed_misses_differently():
    image = looks.noise(50, 61, 1)
    banks = [looks.bank([one]) for one in (image, image[:, ::-1], image[::-1], looks.noise(50, 61, 1, seed=1))]
    offsets = {
        tuple(np.subtract(carried_out(ZOOM, Noise(spread=60.0, seed=seed), bank, box)[0], box))
        for bank in banks
        for box in ([300, 300, 700, 700], [301, 300, 701, 700])
        for seed in (0, 1)
    }
    assert len(offsets) == 16
    first, second = carried_out(PAN, Noise(spread=60.0), banks[0], [300, 300, 700, 700], [300, 300, 700, 700])
    assert first != second


def test_tools_without_boxes_and_noise_without_size_change_nothing():
    assert noisy(ALL_TOOLS["adjust_window"], Noise(spread=50.0)) is ALL_TOOLS["adjust_window"]
    assert noisy(ZOOM, Noise()) is ZOOM and noisy(ZOOM, Noise(seed=3)) is ZOOM


def test_impossible_noise_is_refused():
    for wrong in ({"spread": -1.0}, {"wrong": 1.5}):
        with pytest.raises(ValueError, match="must not be negative"):
            Noise(**wrong)
