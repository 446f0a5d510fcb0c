"""The ways to attend agree: values and gradients, grouped heads, holes, padding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core import layout
from medvista_jax.models.attention import attend, chosen, self_attention
from medvista_jax.models.vlm import chunk_mask

LENGTH, HEADS, KV_HEADS, SIZE = 128, 4, 2, 128


def case(seed: int = 0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(2, LENGTH, n, SIZE)).astype(np.float32) for n in (HEADS, KV_HEADS, KV_HEADS))
    valid = rng.random((2, LENGTH)) < 0.8
    valid[0, 100:] = False  # padding behind
    valid[1, :5] = False  # and before
    return *(jnp.asarray(x) for x in (q, k, v)), jnp.asarray(valid)


def by_numpy(q, k, v, valid):
    """float64, a query at a time."""
    q, k, v, valid = (np.asarray(x, np.float64) if x.dtype != bool else np.asarray(x) for x in (q, k, v, valid))
    out = np.zeros(q.shape)
    for b, t in np.argwhere(valid):
        seen = np.flatnonzero(valid[b, : t + 1])
        for h in range(HEADS):
            score = k[b, seen, h // (HEADS // KV_HEADS)] @ q[b, t, h] / np.sqrt(SIZE)
            weight = np.exp(score - score.max())
            out[b, t, h] = weight / weight.sum() @ v[b, seen, h // (HEADS // KV_HEADS)]
    return out.reshape(*q.shape[:2], -1)


@pytest.mark.parametrize("implementation", ["plain", "dot_product", "splash", "auto"])
def test_against_numpy(implementation):
    q, k, v, valid = case()
    got = np.asarray(self_attention(q, k, v, valid, implementation))
    assert np.isfinite(got).all()  # also where nothing is seen
    there = np.asarray(valid)
    np.testing.assert_allclose(got[there], by_numpy(q, k, v, valid)[there], atol=2e-5)  # float32, values near 1


@pytest.mark.parametrize("implementation", ["dot_product", "splash"])
def test_gradients_agree(implementation):
    q, k, v, valid = case(1)
    weight = jnp.asarray(np.random.default_rng(2).normal(size=(2, LENGTH, HEADS * SIZE)), jnp.float32)
    weight = jnp.where(valid[..., None], weight, 0.0)

    def loss(implementation, q, k, v):
        return jnp.sum(self_attention(q, k, v, valid, implementation) * weight)

    expected = jax.grad(loss, (1, 2, 3))("plain", q, k, v)
    got = jax.grad(loss, (1, 2, 3))(implementation, q, k, v)
    for a, b in zip(got, expected, strict=True):
        assert np.isfinite(np.asarray(a)).all()
        np.testing.assert_allclose(a, b, atol=1e-4)  # sums of 128 products of unit size in float32


def test_the_kernel_takes_any_number_of_slots():
    q, k, v, valid = (x[:, :100] for x in case())
    got = np.asarray(self_attention(q, k, v, valid, "splash"))
    there = np.asarray(valid)
    np.testing.assert_allclose(got[there], by_numpy(q, k, v, valid)[there], atol=2e-5)


def test_a_head_width_that_the_kernel_does_not_take_says_so():
    q, k, v, valid = case()
    with pytest.raises(ValueError, match="multiple of 128, not 64"):
        self_attention(q[..., :64], k[..., :64], v[..., :64], valid, "splash")


def test_blocks_of_queries_are_the_whole(monkeypatch):
    q, k, v, valid = case(3)
    mask = chunk_mask(valid, LENGTH, 0)[:, :70]  # no multiple of a block
    operands = (q[:, :70], k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3), mask)
    whole = attend(*operands)
    monkeypatch.setattr(layout, "platform", lambda: "tpu")
    np.testing.assert_allclose(attend(*operands), whole, atol=1e-6)


def test_auto_on_a_cpu_is_plain():
    assert chosen((2, LENGTH, HEADS, SIZE), jnp.bfloat16) == "plain"
