"""``symmetry_difference`` against numpy on the displayed pixels.

The score is a float32 mean of whole numbers: 1e-5 relative. The image is exact. A zoom into it may differ by one level
in a pixel, because a map and its mirror image round differently before the level is rounded.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import Blend, Fault
from medvista_jax.tools.flip import flip
from medvista_jax.tools.pan_compare import pan_compare
from medvista_jax.tools.render import render
from medvista_jax.tools.rotate import rotate
from medvista_jax.tools.symmetry_difference import symmetry_difference
from medvista_jax.tools.zoom_in import zoom_in
from tests.tools import scene

SIZE = (32, 36)
_render = jax.jit(render, static_argnums=(0, 3))


def shown(kind: str, view) -> np.ndarray:
    one = jax.tree.map(lambda leaf: leaf[None], scene.originals(kind))
    bank = scene.ImageBank(one.pixels_OYXC, one.window_O2, one.count, one.size_O2, one.spacing_O2, one.rescale_O2)
    return np.asarray(_render((), bank, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], view), SIZE)[0])


@pytest.mark.parametrize("kind", ["grey", "ct", "colour"])
@pytest.mark.parametrize("view", scene.VIEWS[:-1])
def test_image_and_score_of_what_is_displayed(kind, view):
    seen = scene.sight(kind)
    named = jax.tree.map(lambda leaf: leaf[scene.VIEWS.index(view)], seen.views.view)
    levels = shown(kind, named).astype(np.float32)
    arguments = jnp.array([scene.VIEWS.index(view)], jnp.int32)
    outcome = symmetry_difference.kernel(arguments, seen.replace(shown_hwC=jnp.asarray(levels)))
    apart = np.abs(levels - levels[:, ::-1])
    assert outcome.fault == Fault.NONE and outcome.view.blend == Blend.DIFFERENCE
    np.testing.assert_allclose(outcome.numbers_N[0], apart.mean(dtype=float) / 255 * 100, rtol=1e-5)
    np.testing.assert_array_equal(shown(kind, outcome.view), apart)


def test_pairs_and_differences_have_no_mirror_image():
    seen = scene.sight("grey").replace(shown_hwC=jnp.zeros((*SIZE, 1)))
    arguments = jnp.array([scene.VIEWS.index("pair")], jnp.int32)
    assert symmetry_difference.kernel(arguments, seen).fault == Fault.UNSUITABLE_IMAGE


def test_black_opposite_white_is_a_hundred_per_cent_and_a_mirror_image_none():
    seen, half = scene.sight("grey"), np.zeros((4, 6, 1), np.float32)
    half[:, :3] = 255
    for levels, score in ((half, 100.0), (np.abs(half - half[:, ::-1]), 0.0)):
        outcome = symmetry_difference.kernel(jnp.array([0]), seen.replace(shown_hwC=jnp.asarray(levels)))
        assert outcome.numbers_N[0] == pytest.approx(score, abs=1e-4)


def test_zooms_flips_and_turns_of_the_difference_are_exact_and_the_gym_says_the_score():
    """A zoom into the left half is the zoom of the image minus that of its mirror image, sampled anew."""
    box, mirror = [100, 200, 400, 900], [600, 200, 900, 900]
    said, images = scene.play(
        (symmetry_difference, zoom_in, flip, rotate, pan_compare), "ct", ("symmetry_difference", {}),
        ("zoom_in", {"bbox_2d": box, "image_index": 2}), ("zoom_in", {"bbox_2d": box}),
        ("zoom_in", {"bbox_2d": mirror}), ("flip", {"direction": "horizontal", "image_index": 2}),
        ("symmetry_difference", {"image_index": 2}),
    )  # fmt: skip
    whole, difference, zoomed, left, right, flipped = (image.astype(int) for image in (images[0], *images[2:]))
    apart = np.abs(whole - whole[:, ::-1])
    assert f"image 2, difference {apart.mean() / 255 * 100:.2f} %" in said[0]
    np.testing.assert_array_equal(difference, apart)
    assert np.abs(zoomed - np.abs(left - right[:, ::-1])).max() <= 1
    assert np.abs(flipped - difference).max() <= 1
    assert "cannot use this image" in said[-1]


def test_compiles_once_whatever_the_arguments():
    kernel = jax.jit(symmetry_difference.kernel)
    seen = scene.sight("grey").replace(shown_hwC=jnp.zeros((*SIZE, 1)))
    for index in range(len(scene.VIEWS)):
        kernel(jnp.array([index], jnp.int32), seen)
    assert kernel._cache_size() == 1
