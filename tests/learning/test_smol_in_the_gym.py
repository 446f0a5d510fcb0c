"""The packaged model's family in the whole loop, small and random: rollout, tools, reward, update."""

from __future__ import annotations

import jax
import numpy as np
import optax

from medvista_jax.learning.grpo import grpo_step
from medvista_jax.learning.sft import sft_step
from medvista_jax.learning.state import start
from medvista_jax.rollout.sampling import Sampling
from tests import tiny
from tests.learning.smol import MODEL

OPTIMIZER = optax.adam(1e-2)


def state_of(*trainable: str):
    return start(jax.jit(MODEL.init)(jax.random.key(0)), trainable, OPTIMIZER, jax.random.key(1))


def test_grpo():
    assert MODEL.tokens_per_image == tiny.MODEL.tokens_per_image
    state = state_of("^decoder")
    before = jax.tree.map(np.asarray, (state.trainable, state.frozen))
    state, metrics = grpo_step(
        MODEL,
        OPTIMIZER,
        tiny.GRPO,
        tiny.environment(),
        state,
        tiny.make_question(),
        tiny.make_key(),
        Sampling.at(1.0),
    )
    assert float(metrics["logprob_mismatch_max"]) < 1e-4  # promise 2
    assert np.isfinite(float(metrics["loss"])) and float(metrics["sampled_tokens"]) > 0
    assert tiny.same_bits(state.frozen, before[1]) and not tiny.same_bits(state.trainable, before[0])


def test_sft_trains_the_connector_too():
    state = state_of("^decoder", "^connector")
    before = jax.tree.map(np.asarray, (state.trainable, state.frozen))
    losses = []
    for _ in range(3):
        script = tiny.make_script(tiny.LESSONS)
        state, metrics = sft_step(MODEL, OPTIMIZER, tiny.SFT, tiny.environment(), state, tiny.make_question(), script)
        losses.append(float(metrics["loss"]))
    assert losses[2] < losses[1] < losses[0]
    still = [path for path, leaf in state.trainable.items() if tiny.same_bits(leaf, before[0][path])]
    assert not still and tiny.same_bits(state.frozen, before[1])
