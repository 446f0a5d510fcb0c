"""Advantages and losses against numbers worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.learning.advantages import group_normalised
from medvista_jax.learning.losses import clipped_surrogate, mean_over, score_tokens
from tests import tiny


def test_group_normalised_literal():
    # Group 1: mean 1.25, deviations (0.75, -0.25, 0.75, -1.25), population variance 0.6875.
    # Group 2: mean 1, variance 4. Group 3: all alike.
    reward = jnp.array([2.0, 1.0, 2.0, 0.0, -1.0, 3.0, -1.0, 3.0, 2.0, 2.0, 2.0, 2.0])
    sd = 0.6875**0.5
    expected = [0.75 / sd, -0.25 / sd, 0.75 / sd, -1.25 / sd, -1, 1, -1, 1, 0, 0, 0, 0]
    np.testing.assert_allclose(np.asarray(group_normalised(reward, 4)), expected, atol=5e-6)  # epsilon is 1e-6


@pytest.mark.parametrize("value", [-3.0, -1.5, 0.1, 0.7, 1e-3, 123.456])
@pytest.mark.parametrize("group", [2, 3, 7, 8])
def test_groups_without_variance_get_zeros(value, group):
    """Also where the mean of equal numbers rounds to another number."""
    got = np.asarray(group_normalised(jnp.full((2 * group,), value), group))
    assert (got == 0).all()


def test_groups_do_not_mix():
    reward = jnp.array([0.0, 1.0, 5.0, 6.0])
    moved = group_normalised(reward.at[:2].add(100.0), 2)
    np.testing.assert_allclose(np.asarray(moved), [-1, 1, -1, 1], atol=1e-4)


CASES = [  # ratio, advantage, gain with bounds 0.8 … 1.3, whether the bound holds
    (1.0, 2.0, 2.0, False),
    (1.5, 2.0, 2.6, True),  # a good token, already made likelier: no more than 1.3
    (0.5, 2.0, 1.0, False),  # a good token made unlikelier: full pull back
    (1.5, -2.0, -3.0, False),  # a bad token made likelier: full push
    (0.5, -2.0, -1.6, True),  # a bad token, already made unlikelier: no less than 0.8
    (1.29, 1.0, 1.29, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "gain", "bound"), CASES)
def test_clipped_loss_of_one_token(ratio, advantage, gain, bound):
    behaviour = jnp.array([[-1.0, 0.0]])
    mask = jnp.array([[True, False]])

    def loss(logprob):
        gain_BS, bound_BS = clipped_surrogate(logprob, behaviour, jnp.array([advantage]), 0.2, 0.3)
        return -mean_over(gain_BS, mask), mean_over(bound_BS, mask)

    logprob = jnp.array([[np.log(ratio) - 1.0, 5.0]], jnp.float32)
    (value, share), gradient = jax.value_and_grad(loss, has_aux=True)(logprob)
    assert float(value) == pytest.approx(-gain, abs=1e-5)
    assert float(share) == float(bound)
    assert float(gradient[0, 0]) == pytest.approx(0.0 if bound else -ratio * advantage, abs=1e-5)
    assert float(gradient[0, 1]) == 0.0


def test_clipped_loss_averages_over_tokens_not_rows():
    """Row 0 has three tokens, row 1 one: (3·1 + 1·(-2)) / 4."""
    mask = jnp.array([[True, True, True], [True, False, False]])
    zero = jnp.zeros((2, 3))
    gain_BS, bound_BS = clipped_surrogate(zero, zero, jnp.array([1.0, -2.0]), 0.2, 0.2)
    assert float(mean_over(gain_BS, mask)) == pytest.approx(0.25)
    assert not np.asarray(bound_BS).any()


def test_mean_over_nothing_is_zero():
    assert float(mean_over(jnp.ones((2, 3)), jnp.zeros((2, 3), bool))) == 0.0
    values = jnp.array([[1.0, jnp.inf, 5.0]])
    assert float(mean_over(values, jnp.array([[True, False, True]]))) == 3.0


def test_entropy_against_numpy():
    t = tiny.played()
    scores = tiny.score(tiny.MODEL, tiny.params(), t, t.features_BILE, jnp.ones(()))
    hidden, _ = tiny.forward(tiny.params(), t.tokens_BS, t.feature_BS, t.features_BILE, t.positions_BSZ, t.valid_BS)
    row = 1
    slots = np.flatnonzero(np.asarray(t.valid_BS[row]))
    slot = next(s for s in slots if bool(t.sampled_BS[row, s]))
    before = slots[slots < slot].max()
    logits = np.asarray(tiny.logits(tiny.params(), hidden))[row, before].astype(np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    assert float(scores.entropy_BS[row, slot]) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)
    assert not np.asarray(scores.entropy_BS)[~np.asarray(t.sampled_BS)].any()


def test_scores_differentiate_finitely_with_empty_rows():
    t = tiny.played()
    empty = t.replace(valid_BS=t.valid_BS.at[0].set(False), sampled_BS=t.sampled_BS.at[0].set(False))

    def loss(params):
        return jnp.sum(score_tokens(tiny.MODEL, params, empty, t.features_BILE, jnp.ones(())).logprob_BS)

    gradients = jax.jit(jax.grad(loss))(tiny.params())
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(gradients))
