"""GRPO with slot refill: the same update as with all episodes side by side."""

from __future__ import annotations

import dataclasses

import numpy as np

from medvista_jax.learning.grpo import grpo_step
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.slots import SlotConfig
from tests import tiny


def test_the_update_is_that_of_the_plain_loop():
    question, key = tiny.make_question(max_turns=(3, 1, 2)), tiny.make_key()
    plain, expected = tiny.update(tiny.make_state(), question, key)
    config = dataclasses.replace(tiny.GRPO, slots=SlotConfig(rows=5))
    state, metrics = grpo_step(
        tiny.MODEL, tiny.optimizer(), config, tiny.environment(), tiny.make_state(), question, key, Sampling.at(1.0)
    )
    assert 0 < float(metrics.pop("slot_utilisation")) <= 1
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        # The mismatch is rounding itself.
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    for path, leaf in plain.trainable.items():
        # Adam's first step is the sign of the gradient: where that is rounding, the sign may differ.
        same = np.isclose(state.trainable[path], leaf, atol=2e-4)
        assert same.mean() > 0.999, path
