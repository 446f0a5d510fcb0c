"""``look``: which spots it finds, and what it shows of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.data.atlas import Atlas
from medvista_jax.data.spots import FAMILY, SpotTeacher, look_turn, teach, view_around, words_of_view
from medvista_jax.tools.look import MOST, look, spots
from medvista_jax.tools.resample import apply_window, crop_resize


def picture(*places: tuple[int, int, float]) -> jax.Array:
    """Grey 112 x 112 with dark discs, each with a bright core of the given level."""
    y, x = np.mgrid[:112, :112]
    levels = np.full((112, 112), 120.0, np.float32)
    for centre_x, centre_y, core in places:
        radius = np.hypot(y - centre_y, x - centre_x)
        levels[radius <= 6] = 40.0
        levels[radius <= 1.5] = core
    return jnp.asarray(levels)


def test_spots_come_in_the_order_of_their_contrast():
    found = np.asarray(spots(picture((30, 80, 200.0), (70, 25, 250.0), (90, 90, 160.0))))
    assert found.shape == (MOST, 2)
    np.testing.assert_allclose(found[:3] * 112 - 0.5, [(70, 25), (30, 80), (90, 90)], atol=1.0)


def test_an_edge_and_a_line_are_no_spots():
    levels = np.array(picture((30, 80, 160.0)))
    levels[:, 60:63], levels[:10] = 255.0, 255.0  # brighter than the spot, but not alone
    np.testing.assert_allclose(np.asarray(spots(jnp.asarray(levels)))[0] * 112 - 0.5, (30, 80), atol=1.0)


def test_the_first_spot_of_held_out_items_is_the_target():
    """What the experiment's text claims of it."""
    atlas = Atlas("test")
    items = [atlas.item(FAMILY, index) for index in range(40)]
    pixels = np.stack([item.pixels for item in items])[:, None]
    whole, size = np.tile([[0.0, 0.0, 256.0, 256.0]], (40, 1)), np.full((40, 1, 2), 256, np.int32)
    shown = crop_resize(pixels, jnp.zeros(40, jnp.int32), jnp.asarray(whole, jnp.float32), jnp.asarray(size), 112, 112)
    shown = apply_window(shown, np.array([item.window for item in items], np.float32))
    first_N2 = np.asarray(jax.vmap(spots)(shown[..., 0].astype(jnp.float32)))[:, 0] * 1000
    middle_N2 = np.array([(np.array(item.targets[0][:2]) + item.targets[0][2:]) / 2 for item in items])
    assert np.abs(first_N2 - middle_N2).max() < 15.0  # 4 of 256 pixels


def test_words_stand_where_the_target_is():
    item = Atlas("test").item(FAMILY, 0)
    x1, y1, x2, y2 = item.targets[0]
    box = view_around((x1 + x2) / 2, (y1 + y2) / 2)
    words = words_of_view(item, box, 300, 300).reshape(300, 300)
    rows, columns = np.nonzero(words)
    # A cell of this grid is a thousandth of the image.
    assert (columns.min() + box[0], columns.max() + 1 + box[0]) == (x1, x2)
    assert (rows.min() + box[1], rows.max() + 1 + box[1]) == (y1, y2)
    assert not words_of_view(item, view_around(*((500 + np.array([x1, y1])) % 1000)), 4, 4).any()


def test_the_teacher_looks_and_strays_as_often_as_it_is_told():
    item, rng = Atlas("test").item(FAMILY, 0), np.random.default_rng(0)
    said = [teach(item, rng, SpotTeacher(direct=0.6, stray=0.5), True) for _ in range(2000)]
    looks = [turns[0] for turns in said if len(turns) == 2]
    assert abs(len(looks) / 2000 - 0.4) < 0.04 and abs(looks.count(look_turn(1)) / len(looks) - 0.5) < 0.06
    assert all(item.answer in turns[-1] for turns in said)
    assert all(len(teach(item, rng, SpotTeacher(direct=0.0), False)) == 1 for _ in range(20))
    assert look.spec.render_call(spot=3) in look_turn(3)
