"""``medvista-tiny`` as the protocol asks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.models.medvista_tiny import MedVistaTiny
from medvista_jax.models.medvista_tiny.modeling import windows
from tests import tiny

MODEL = tiny.MODEL
L = MODEL.tokens_per_image
encode, forward = tiny.encode, tiny.forward
init = jax.jit(MODEL.init)


def pixels(count: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 1)).astype(np.uint8))


def test_sizes_of_the_protocol():
    assert (MODEL.vocab_size, L, MODEL.image_size, MODEL.position_axes) == (tiny.VOCAB, 4, (16, 16), 1)
    features = encode(tiny.params(), pixels(3))
    assert features.shape == (3, L, 32)
    cache = MODEL.init_cache(5, 7)
    assert [leaf.shape for leaf in cache.keys + cache.values] == [(5, 2, 8, 7)] * 2 + [(5, 2, 7, 8)] * 2
    assert not np.asarray(cache.valid_BS).any()


def test_images_are_encoded_one_by_one():
    images = pixels(4)
    together = np.asarray(encode(tiny.params(), images))
    alone = np.concatenate([np.asarray(encode(tiny.params(), images[i : i + 1])) for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_embeddings_keep_the_order_of_places():
    """Embedding 2·row + column looks around its quarter of the view: of the corner pixels, only one moves it."""
    flat = MedVistaTiny(dataclasses.replace(MODEL.config, vision_layers=0))
    params = tiny.params()
    image = pixels(1)
    run = jax.jit(flat.encode_images)
    before = np.asarray(run(params, image))[0]
    for row in range(2):
        for column in range(2):
            at = (0, 15 * row, 15 * column)
            moved = image.at[at].set(255 - image[at])
            gap = np.abs(np.asarray(run(params, moved))[0] - before).max(-1)
            assert np.flatnonzero(gap > 1e-6).tolist() == [2 * row + column]


@pytest.mark.parametrize("cell", [1, 2, 4])
def test_windows_against_sliding(cell):
    """Every value of a window, whatever the order inside it: sorted, it is what numpy's sliding window shows."""
    x = np.random.default_rng(cell).random((2, 8, 12, 3)).astype(np.float32)
    found = np.asarray(windows(jnp.asarray(x), cell))
    before, after = cell // 2, cell - cell // 2
    padded = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), mode="edge")
    expected = np.lib.stride_tricks.sliding_window_view(padded, (2 * cell, 2 * cell), axis=(1, 2))[:, ::cell, ::cell]
    assert found.shape == (2, 8 // cell, 12 // cell, 4 * cell * cell * 3)
    np.testing.assert_array_equal(np.sort(found, axis=-1), np.sort(expected.reshape(found.shape), axis=-1))


def test_windows_keep_one_order_inside():
    """A picture moved by a cell gives the windows moved by one: weights mean the same everywhere."""
    x = np.random.default_rng(0).random((1, 16, 16, 1)).astype(np.float32)
    one, moved = (np.asarray(windows(jnp.asarray(v), 4)) for v in (x, np.roll(x, (4, 4), (1, 2))))
    np.testing.assert_array_equal(one[0, 1:2, 1:2], moved[0, 2:3, 2:3])


def test_positions_count_valid_slots_only():
    valid = jnp.array([[True, True, False, True], [False, True, True, False]])
    positions, following = MODEL.positions(jnp.array([10, 3]), valid, jnp.full((2, 4), -1))
    got = np.asarray(positions)[..., 0]
    assert got[0, [0, 1, 3]].tolist() == [10, 11, 12] and got[1, [1, 2]].tolist() == [3, 4]
    assert np.asarray(following).tolist() == [13, 5]


def test_feature_slots_read_image_and_place_of_their_row():
    """``feature = i * L + l``: gradients of the slot's input reach exactly that embedding."""
    params = tiny.params()
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(2, 3, L, 32)), jnp.float32)
    tokens = jnp.zeros((2, 2), jnp.int32)
    feature = jnp.array([[-1, 2 * L + 1], [0, L + 3]])
    positions = jnp.tile(jnp.arange(2)[None, :, None], (2, 1, 1))
    valid = jnp.ones((2, 2), bool)

    def total(features):
        hidden, _ = forward(params, tokens, feature, features, positions, valid)
        return jnp.sum(hidden * jnp.arange(32.0)[None, None])

    touched = np.abs(np.asarray(jax.jit(jax.grad(total))(features))).max(-1) > 0
    expected = np.zeros((2, 3, L), bool)
    expected[0, 2, 1] = expected[1, 0, 0] = expected[1, 1, 3] = True
    np.testing.assert_array_equal(touched, expected)


def test_token_ids_at_feature_slots_do_not_matter():
    params, features = tiny.params(), encode(tiny.params(), pixels(2))[None]
    feature, valid = jnp.array([[-1, 5, -1]]), jnp.ones((1, 3), bool)
    positions = jnp.arange(3)[None, :, None]
    run = lambda tokens: forward(params, jnp.array([tokens]), feature, features, positions, valid)[0]  # noqa: E731
    np.testing.assert_array_equal(np.asarray(run([1, 2, 3])), np.asarray(run([1, 700, 3])))
    assert np.abs(np.asarray(run([1, 2, 3])) - np.asarray(run([1, 2, 4])))[0, 2].max() > 1e-3


def test_parameters_are_nested_dicts_of_float32_arrays():
    params = init(jax.random.key(0))

    def walk(node):
        assert type(node) in (dict,) or isinstance(node, jax.Array), type(node)
        for child in node.values() if isinstance(node, dict) else ():
            walk(child)

    walk(params)
    assert set(params) == {"vision", "connector", "decoder"}
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    again = init(jax.random.key(0))
    assert tiny.same_bits(params, again) and not tiny.same_bits(params, init(jax.random.key(1)))


def test_every_parameter_reaches_the_logits():
    """No dead weight: the gradient of the logits touches each leaf."""
    features_of = lambda p: MODEL.encode_images(p, pixels(1))[None]  # noqa: E731
    feature = jnp.array([[-1, 0, 1, 2, 3, -1]])
    tokens, valid = jnp.array([[1, 2, 3, 4, 5, 6]]), jnp.ones((1, 6), bool)
    positions = jnp.arange(6)[None, :, None]

    def loss(p):
        hidden, _ = MODEL.forward(p, tokens, feature, features_of(p), positions, valid)
        return jnp.sum(jnp.square(MODEL.logits(p, hidden)[0, -1]))

    gradients = jax.jit(jax.grad(loss))(tiny.params())
    dead = [jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(gradients) if not np.any(np.asarray(g))]
    # A key bias shifts all scores of a query alike: softmax does not see it, so rounding is all that is left of it.
    assert [path for path in dead if "'key']['bias']" not in path] == []
