import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvista_jax.runtime.checkpoints import CheckpointError, Checkpoints, compare_leaves


def make_state(seed: int):
    params = {
        "encoder": {"kernel": jax.random.normal(jax.random.key(seed), (5, 7))},
        "decoder": [{"bias": jnp.arange(3, dtype=jnp.bfloat16) / 3}, jnp.float32(np.nan)],
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    opt_state = optimizer.init(params)
    _, opt_state = optimizer.update(jax.tree.map(jnp.ones_like, params), opt_state, params)
    return {
        "params": params,
        "optimizer": opt_state,
        "key": jax.random.key(seed + 1),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 4),
        "order": np.random.default_rng(seed).permutation(9),
        "step": 3 + seed,
        "scale": 0.1 * seed,
        "frozen": seed == 1,
    }


def bits(leaf):
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes()
    return type(leaf).__name__, np.asarray(leaf).dtype, np.asarray(leaf).shape, np.asarray(leaf).tobytes()


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert bits(one) == bits(other)


def test_every_bit_of_a_training_state_comes_back(tmp_path):
    state = make_state(1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(30, state, {"stage": "grpo", "config": {"lr": 1e-3}})
    with Checkpoints(tmp_path) as checkpoints:  # another process would start here
        step, restored, metadata = checkpoints.restore(make_state(5))
    assert step == 30
    assert metadata == {"stage": "grpo", "config": {"lr": 1e-3}}
    assert_same_bits(restored, state)
    # The key still draws what it would have drawn.
    assert jax.random.bits(restored["key"]) == jax.random.bits(state["key"])
    assert jnp.array_equal(jax.vmap(jax.random.bits)(restored["keys"]), jax.vmap(jax.random.bits)(state["keys"]))


def test_restores_into_shapes_alone(tmp_path):
    tree = {"w": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(4, impl="rbg")}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        _, restored, metadata = checkpoints.restore(jax.eval_shape(lambda: tree))
    assert metadata == {}
    assert_same_bits(restored, tree)


def test_updates_after_save_do_not_reach_the_checkpoint(tmp_path):
    # Large enough that the writing is still going on when the donated buffer is written over.
    state = {"device": jnp.ones((4_000_000,)), "host": np.ones(8_000_000)}
    update = jax.jit(lambda x: x * 2 + 5, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        device = state["device"]
        for _ in range(3):
            device = update(device)
        device.block_until_ready()
        state["host"][:] = -1
        _, restored, _ = checkpoints.restore({"device": device, "host": np.zeros(8_000_000)})
    assert np.all(np.asarray(restored["device"]) == 1)
    assert np.all(restored["host"] == 1)


def test_keeps_the_newest_and_names_the_latest(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        for step in (1, 5, 9):
            checkpoints.save(step, {"x": jnp.full(2, step)})
        assert checkpoints.steps() == [5, 9]
        assert checkpoints.latest() == 9
        assert checkpoints.restore({"x": jnp.zeros(2, jnp.int32)}, step=5)[1]["x"][0] == 5


def test_going_back_rewrites_what_follows(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"x": step})
        checkpoints.save(2, {"x": 20})
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.restore({"x": 0})[1] == {"x": 20}


def test_an_empty_folder_and_an_absent_step_say_so(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}"):
            checkpoints.restore({"x": 0})
        checkpoints.save(4, {"x": 0})
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 3 .* there are \[4\]"):
            checkpoints.restore({"x": 0}, step=3)


def test_a_mismatch_lists_the_paths(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": {"w": jnp.zeros((2, 3)), "old": 1}, "same": 1.0})
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore({"a": {"w": jnp.zeros((3, 2)), "new": jnp.zeros(4)}, "same": 1.0})
    assert str(caught.value).splitlines()[1:] == [
        "  only in the checkpoint: a/old  int",
        "  missing in the checkpoint: a/new  float32[4]",
        "  differs: a/w  checkpoint float32[2,3], asked for float32[3,2]",
    ]


def test_a_long_mismatch_is_cut():
    lines = compare_leaves({}, {str(k): "int" for k in range(50)}).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "  … and 30 more"


def test_what_cannot_be_stored_is_refused_by_name(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match="leaf 'a/b' of type str"):
            checkpoints.save(1, {"a": {"b": "text"}})
        with pytest.raises(TypeError, match="metadata must be JSON"):
            checkpoints.save(1, {"a": 1}, {"config": object()})


def test_saving_prints_nothing(tmp_path, capfd, caplog):
    logging.getLogger("absl").setLevel(logging.INFO)  # what a program that logs has
    with caplog.at_level(logging.INFO), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
        checkpoints.restore({"x": jnp.ones(3)})
    assert [record for record in caplog.records if record.name == "absl"] == []
    assert "".join(capfd.readouterr()) == ""
