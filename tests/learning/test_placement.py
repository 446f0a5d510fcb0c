"""What a step computes with: matrices in the model's dtype, vectors and adapters as they are; masters stay float32."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from medvista_jax.learning.grpo import GRPOConfig, grpo_step
from medvista_jax.learning.placement import (
    lowered,
    place_rows,
    place_state,
    policy_params,
    policy_specifications,
    state_shardings,
)
from medvista_jax.learning.state import start
from medvista_jax.models.families import sharding_rules
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.mesh import abstract_mesh
from tests.meshes.families import FAMILIES, ask, draw, environment_of

MODEL = FAMILIES["qwen3_vl"]
HALF = dataclasses.replace(MODEL, dtype="bfloat16")


def state():
    return start(draw(MODEL), ("^decoder",), optax.adam(1e-3), jax.random.key(0))


def test_matrices_are_lowered_and_nothing_else():
    flat = {
        "decoder/layer_0/q/kernel": jnp.ones((4, 4)),
        "decoder/layer_0/q/bias": jnp.ones(4),
        "decoder/layer_0/q/kernel_lora_a": jnp.ones((4, 2)),
        "decoder/embedding": jnp.ones((4, 4), jnp.bfloat16),
        "decoder/steps": jnp.ones((4, 4), jnp.int32),
    }
    got = {path.rsplit("/", 1)[-1]: leaf.dtype for path, leaf in lowered(HALF, flat).items()}
    assert got == {"kernel": "bfloat16", "bias": "float32", "kernel_lora_a": "float32", "embedding": "bfloat16"} | {
        "steps": "int32"
    }
    assert all(leaf is flat[path] for path, leaf in lowered(MODEL, flat).items())  # float32 computes with the masters


def test_a_model_in_half_precision_learns_with_float32_masters():
    before = state()
    params = policy_params(HALF, before)
    assert params["decoder"]["layer_0"]["q"]["kernel"].dtype == jnp.bfloat16
    assert before.trainable["decoder/layer_0/q/kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(
        params["decoder"]["layer_0"]["q"]["kernel"], before.trainable["decoder/layer_0/q/kernel"].astype(jnp.bfloat16)
    )


def test_a_step_in_half_precision():
    """Masters, moments and their sums in float32; the policy of the rollout is the one that the loss reads."""
    optimizer = optax.adam(1e-3)
    question, key, _ = ask(HALF)
    begin = start(draw(HALF), ("^decoder",), optimizer, jax.random.key(0))
    before = {path: np.asarray(leaf) for path, leaf in begin.trainable.items()}
    config = GRPOConfig(group=2, reward="vista_r1", buckets=(), chunk=16, entropy_coefficient=0.1)
    after, metrics = grpo_step(HALF, optimizer, config, environment_of(HALF), begin, question, key, Sampling.at(1.0))
    assert {leaf.dtype for leaf in after.trainable.values()} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(after.optimizer[0].mu)} == {jnp.dtype("float32")}
    assert all(np.isfinite(float(value)) for value in metrics.values())
    moved = [np.abs(np.asarray(leaf) - before[path]).max() for path, leaf in after.trainable.items()]
    assert min(moved) > 0 and max(moved) < 2e-3  # Adam's first step, finer than bfloat16 would hold
    assert float(metrics["logprob_mismatch_mean"]) < 0.02  # logits of unit size with 8 bits


def test_moments_lie_with_their_parameters_and_the_rollout_keeps_tensor_alone():
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"))
    assert jax.tree.structure(state_shardings(MODEL, state(), mesh)) == jax.tree.structure(state())
    wide = abstract_mesh({"fsdp": 2, "tensor": 2})
    paths = ("decoder/layer_0/q/kernel", "decoder/layer_0/o/kernel", "vision/block_0/qkv/kernel", "connector/up/kernel")
    assert policy_specifications(MODEL, dict.fromkeys(paths, jnp.ones((8, 8))), wide) == {
        "decoder/layer_0/q/kernel": P(None, "tensor"),
        "decoder/layer_0/o/kernel": P("tensor"),
        "vision/block_0/qkv/kernel": P(),  # every device encodes some images whole
        "connector/up/kernel": P(),
    }


def test_without_a_mesh_placing_says_what_is_missing():
    for place in (lambda: place_state(MODEL, state()), lambda: place_rows(jnp.ones(4))):
        with pytest.raises(ValueError, match="no mesh in context; write it inside 'with jax.set_mesh"):
            place()


def test_a_model_of_no_family_has_no_rules():
    with pytest.raises(ValueError, match="no sharding rules are known for a int"):
        sharding_rules(3)
