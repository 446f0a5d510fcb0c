import jax
import jax.numpy as jnp
import optax

from medvista_jax.runtime.finite import FiniteCheck, describe, listed, watch_gradients


def test_the_first_bad_gradients_are_remembered_and_gradients_pass_unchanged():
    watch = watch_gradients()
    params = {"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(4)}}
    update = jax.jit(watch.update)
    state = watch.init(params)
    assert (state.paths, state.sizes) == (("a", "b/c"), (6, 4))
    fine = jax.tree.map(jnp.ones_like, params)
    bad = {"a": jnp.ones((2, 3)), "b": {"c": jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf])}}
    worse = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    for gradients, counts in ((fine, [[0, 0], [0, 0]]), (bad, [[0, 0], [1, 2]]), (worse, [[0, 0], [1, 2]])):
        passed, state = update(gradients, state)
        assert all(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.array_equal(x, y, equal_nan=True), passed, gradients)))
        assert state.counts_L2.tolist() == counts


def test_a_norm_that_overflows_blames_no_gradient():
    watch = watch_gradients()
    params = {"a": jnp.zeros(2)}
    _, state = watch.update({"a": jnp.full(2, 3e38)}, watch.init(params))
    assert state.counts_L2.tolist() == [[0, 0]]


def test_gradients_are_blamed_before_the_parameters_they_spoilt():
    optimizer = optax.chain(watch_gradients(), optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    params = {"a": jnp.zeros(3), "b": jnp.zeros(2)}
    memory = optimizer.init(params)
    check = FiniteCheck({"params": params, "memory": memory})
    assert check.blame({"params": params, "memory": memory}) == []
    updates, memory = optimizer.update({"a": jnp.array([1.0, jnp.nan, 1.0]), "b": jnp.ones(2)}, memory, params)
    params = optax.apply_updates(params, updates)
    assert bool(jnp.isnan(params["b"]).all())
    assert check.blame({"params": params, "memory": memory}) == ["gradient of a: 1 of 3 values are NaN"]
    assert check.blame({"params": params}) == [
        "params/a: 3 of 3 values are NaN",
        "params/b: 2 of 2 values are NaN",
    ]
    assert FiniteCheck({"params": params}).blame({"params": params}) == []


def test_words():
    assert describe("decoder/layer_3/q/kernel", 4096, 12, 0) == "decoder/layer_3/q/kernel: 12 of 4096 values are NaN"
    assert describe("x", 4, 1, 2) == "x: 1 of 4 values are NaN, 2 of 4 values are infinite"
    assert listed("abcdefg").splitlines() == ["  a", "  b", "  c", "  d", "  e", "  … and 2 more"]
