"""Policy losses, averages, KL estimators and importance weights against the formulas of verl and TRL in torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.extend.core import jaxprs_in_params

from medvista_jax.learning import kl, losses
from medvista_jax.learning.losses import row_weights, score_tokens, surrogate, truncated_weight
from medvista_jax.rollout.sampling import log_softmax_at
from tests import tiny

LOW, HIGH = 0.2, 0.28
MASK = np.array([[0, 1, 1, 1, 0, 1], [0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool)


def arrays(seed: int = 15):
    """New and old log-probabilities whose ratios lie on both sides of every bound, and advantages of both signs."""
    rng = np.random.default_rng(seed)
    new = -rng.uniform(0.1, 3.0, MASK.shape)
    old = new - rng.choice([-1.6, -0.3, -0.05, 0.05, 0.2, 0.5, 1.6], MASK.shape) - 0.01
    return new.astype(np.float32), old.astype(np.float32), np.array([1.5, -0.7, 0.4, -2.0], np.float32)


def verl_policy_loss(new, old, advantages, mask, dual_clip):
    """verl's ``compute_policy_loss_vanilla``, token by token."""
    ratio = torch.exp(torch.clamp(new - old, min=-20.0, max=20.0))
    losses1 = -advantages * ratio
    losses2 = -advantages * torch.clamp(ratio, 1 - LOW, 1 + HIGH)
    clip1 = torch.maximum(losses1, losses2)
    if dual_clip is None:
        return clip1
    clip2 = torch.min(-advantages * dual_clip, clip1)
    return torch.where(advantages < 0, clip2, clip1)


def verl_gspo(new, old, advantages, mask, _):
    """verl's ``compute_policy_loss_gspo``, token by token: the gradient of GSPO-token."""
    lengths = mask.sum(-1).clamp(min=1)
    mean = ((new - old) * mask).sum(-1) / lengths
    ratio = torch.exp(torch.clamp(new - new.detach() + mean.detach().unsqueeze(-1), max=10.0))
    return torch.maximum(-advantages * ratio, -advantages * torch.clamp(ratio, 1 - LOW, 1 + HIGH))


def trl_gspo(new, old, advantages, mask, _):
    """TRL's ``importance_sampling_level="sequence"``."""
    weight = ((new - old) * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)
    ratio = torch.exp(weight.unsqueeze(-1))
    loss1, loss2 = ratio * advantages, torch.clamp(ratio, 1 - LOW, 1 + HIGH) * advantages
    return (-torch.min(loss1, loss2)).expand_as(new)


def verl_cispo(new, old, advantages, mask, _):
    """verl's ``compute_policy_loss_cispo``; TRL's differs in having no lower bound."""
    clipped = torch.clamp(torch.exp(new - old), 1 - LOW, 1 + HIGH).detach()
    return -clipped * advantages * new


def verl_aggregate(values, mask, mode, capacity):
    """verl's ``agg_loss`` (and TRL's ``loss_type`` "bnpo", "grpo" without empty rows, "dr_grpo")."""
    mask = mask.to(values.dtype)
    if mode == "token":
        return (values * mask).sum() / mask.sum()
    if mode == "constant":
        return (values * mask).sum() / (values.shape[0] * capacity)
    rows = (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    return (rows * (mask.sum(-1) > 0)).sum() / (mask.sum(-1) > 0).sum()


CASES = [
    ("clip", None, verl_policy_loss),
    ("clip", 1.5, verl_policy_loss),
    ("gspo", None, trl_gspo),
    ("gspo_token", None, verl_gspo),
    ("cispo", None, verl_cispo),
]


@pytest.mark.parametrize("mode", losses.NORMALISATIONS)
@pytest.mark.parametrize(("name", "dual_clip", "theirs"), CASES)
def test_losses_and_their_gradients(name, dual_clip, theirs, mode):
    new, old, advantage = arrays()
    mask, capacity = torch.tensor(MASK), 9
    x = torch.tensor(new, requires_grad=True)
    expected = verl_aggregate(
        theirs(x, torch.tensor(old), torch.tensor(advantage)[:, None].expand(MASK.shape), mask, dual_clip),
        mask,
        mode,
        capacity,
    )
    expected.backward()

    def loss(new_BS):
        gain_BS, _ = surrogate(name, LOW, HIGH, dual_clip)(new_BS, old, jnp.asarray(advantage), MASK)
        return -jnp.sum(jnp.where(MASK, gain_BS, 0.0) * row_weights(mode, jnp.asarray(MASK), capacity)[:, None])

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(new))
    np.testing.assert_allclose(float(value), float(expected.detach()), rtol=2e-6)
    np.testing.assert_allclose(np.asarray(gradient), x.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_the_cases_reach_every_bound():
    new, old, advantage = arrays()
    sign, ratio = np.sign(advantage)[:, None], np.exp(new - old)
    for side, bound in ((1, ratio > 1 + HIGH), (-1, ratio < 1 - LOW), (-1, ratio > 1.5)):
        assert (MASK & bound & (sign == side)).any() and (MASK & ~bound & (sign == side)).any()
    rows = np.exp(((new - old) * MASK).sum(1) / np.maximum(MASK.sum(1), 1))  # GSPO: one at each bound, one at none
    assert rows[0] > 1 + HIGH and rows[1] < 1 - LOW and 1 - LOW < rows[3] < 1 + HIGH


@pytest.mark.parametrize("name", ["clip", "gspo"])
def test_gradient_by_finite_differences(name):
    """Of the losses whose value is what they differentiate; none of the slots lies within a step of a bound."""
    new, old, advantage = arrays()
    gain_of = surrogate(name, LOW, HIGH, None)

    def total(x):
        return jnp.sum(jnp.where(MASK, gain_of(x, old, jnp.asarray(advantage), MASK).gain_BS, 0.0))

    gradient, step = jax.grad(total)(jnp.asarray(new)), 1e-3
    for row, slot in ((0, 1), (0, 3), (1, 4), (3, 0), (3, 1), (3, 2), (3, 3)):
        slope = (total(new + step * one(row, slot)) - total(new - step * one(row, slot))) / (2 * step)
        np.testing.assert_allclose(float(gradient[row, slot]), float(slope), rtol=1e-2, atol=2e-3)


def one(row: int, slot: int) -> np.ndarray:
    here = np.zeros(MASK.shape, np.float32)
    here[row, slot] = 1.0
    return here


def test_advantages_of_tokens():
    """[B, S] advantages that are alike in a row give what [B] advantages give; else each token has its own."""
    new, old, advantage = arrays()
    spread = jnp.broadcast_to(jnp.asarray(advantage)[:, None], MASK.shape)
    for name in losses.LOSSES:
        gain_of = surrogate(name, LOW, HIGH, None)
        one, other = gain_of(new, old, jnp.asarray(advantage), MASK), gain_of(new, old, spread, MASK)
        np.testing.assert_allclose(
            np.where(MASK, one.gain_BS, 0.0), np.where(MASK, other.gain_BS, 0.0), rtol=1e-5, atol=1e-6
        )
    same = jnp.zeros(MASK.shape)
    mixed = jnp.arange(24.0).reshape(MASK.shape)
    for name in ("clip", "gspo_token"):
        np.testing.assert_allclose(surrogate(name, LOW, HIGH, None)(same, same, mixed, MASK).gain_BS, mixed, rtol=1e-6)


def test_truncated_importance_weights():
    """verl's and TRL's: ``exp(old - rollout).clamp(max=C)``, no gradient."""
    old, behaviour, _ = arrays(5)
    expected = torch.exp(torch.tensor(old - behaviour)).clamp(max=1.2).numpy()
    got, gradient = jax.value_and_grad(lambda x: jnp.sum(truncated_weight(x, behaviour, 1.2)))(jnp.asarray(old))
    assert float(got) == pytest.approx(expected.sum(), rel=1e-6) and not np.asarray(gradient).any()
    assert (expected == np.float32(1.2)).any() and (expected < 1.2).any()


def test_kl_estimators():
    """verl's ``kl_penalty``: "kl", "mse" and "low_var_kl" (clamped at 20 as ours)."""
    new, reference, _ = arrays(7)
    x = torch.tensor(new, requires_grad=True)
    delta = torch.tensor(reference) - x
    theirs = {
        "k1": x - torch.tensor(reference),
        "k2": 0.5 * (x - torch.tensor(reference)).square(),
        "k3": torch.exp(torch.clamp(delta, -20, 20)) - delta - 1,
    }
    for name, expected in theirs.items():
        (gradient,) = torch.autograd.grad(expected.sum(), x)
        estimate = kl.ESTIMATORS[name]
        value = estimate(jnp.asarray(new), reference)
        np.testing.assert_allclose(np.asarray(value), expected.detach().numpy(), rtol=1e-4, atol=1e-6)
        mine = jax.grad(lambda y, estimate=estimate: jnp.sum(estimate(y, reference)))(jnp.asarray(new))
        np.testing.assert_allclose(np.asarray(mine), gradient.numpy(), rtol=1e-4, atol=1e-6)


def test_what_the_estimators_teach_on_policy():
    """Exact expectations over five tokens: k1 as a loss teaches nothing, in the reward it is KL's gradient, and so is
    k2's; k3's is the gradient of the other KL."""
    rng = np.random.default_rng(0)
    theta, logits = (jnp.asarray(rng.normal(size=5), jnp.float32) for _ in range(2))
    reference = jax.nn.log_softmax(logits)
    p = jax.nn.softmax(theta)
    forward = lambda theta: jnp.sum(jax.nn.softmax(theta) * (jax.nn.log_softmax(theta) - reference))  # noqa: E731
    backward = lambda theta: jnp.sum(jnp.exp(reference) * (reference - jax.nn.log_softmax(theta)))  # noqa: E731
    expected = lambda estimate: jax.grad(lambda t: jnp.sum(p * estimate(jax.nn.log_softmax(t), reference)))(theta)  # noqa: E731
    np.testing.assert_allclose(np.asarray(expected(kl.k1)), np.zeros(5), atol=1e-6)
    np.testing.assert_allclose(np.asarray(expected(kl.k2)), np.asarray(jax.grad(forward)(theta)), atol=1e-6)
    np.testing.assert_allclose(np.asarray(expected(kl.k3)), np.asarray(jax.grad(backward)(theta)), atol=1e-6)
    cost = kl.k1(jax.nn.log_softmax(theta), reference)
    reinforce = jax.grad(lambda t: jnp.sum(p * cost * jax.nn.log_softmax(t)))(theta)
    np.testing.assert_allclose(np.asarray(reinforce), np.asarray(jax.grad(forward)(theta)), atol=1e-6)


def test_penalty_by_turn():
    turn = jnp.array([[-1, 0, 0, 1], [0, -1, 2, 2]])
    new, reference = jnp.array([[9.0, 1, 2, 3], [4, 9, 5, 6]]), jnp.ones((2, 4))
    got = kl.turn_penalty(new, reference, turn, 3)
    np.testing.assert_array_equal(np.asarray(got), [[0 + 1, 2, 0], [3, 0, 4 + 5]])


def widest(jaxpr, vocabulary: int) -> int:
    """The most elements of an array with a vocabulary axis in a program and those inside it, matrices aside."""
    most = 0
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            shape = getattr(variable.aval, "shape", ())
            if len(shape) > 2 and vocabulary in shape:
                most = max(most, int(np.prod(shape)))
        for inner in jaxprs_in_params(equation.params):
            most = max(most, widest(inner, vocabulary))
    return most


def dense_scores(params, t, temperature):
    """Every slot's logits at once."""
    hidden, _ = tiny.MODEL.forward(params, t.tokens_BS, t.feature_BS, t.features_BILE, t.positions_BSZ, t.valid_BS)
    slots = jnp.arange(t.tokens_BS.shape[1])
    seen = jax.lax.cummax(jnp.where(t.valid_BS, slots[None], 0), axis=1)
    before = jnp.pad(seen[:, :-1], ((0, 0), (1, 0)))
    logits = tiny.MODEL.logits(params, jnp.take_along_axis(hidden, before[..., None], axis=1))
    log_p = jax.nn.log_softmax(logits)
    logprob = jnp.where(t.sampled_BS, log_softmax_at(logits, t.tokens_BS, temperature), 0.0)
    return logprob, jnp.where(t.sampled_BS, -jnp.sum(jnp.exp(log_p) * log_p, -1), 0.0)


def objectives(t, weight):
    """The same differentiable number by chunks and at once."""

    def chunked(params, slots_at_once):
        scores = score_tokens(
            tiny.MODEL,
            params,
            t,
            t.features_BILE,
            jnp.float32(0.7),
            slots_at_once=slots_at_once,
            entropy_gradient=True,
        )
        return jnp.sum(scores.logprob_BS * weight) + jnp.sum(scores.entropy_BS * weight), scores

    def dense(params):
        logprob, entropy = dense_scores(params, t, jnp.float32(0.7))
        return jnp.sum(logprob * weight) + jnp.sum(entropy * weight), (logprob, entropy)

    return chunked, dense


@pytest.fixture(scope="module")
def mixed():
    t = tiny.played(tiny.make_script(tiny.MIXED))
    return t, jnp.asarray(np.random.default_rng(0).normal(size=t.tokens_BS.shape), jnp.float32)


@pytest.mark.parametrize("slots_at_once", [7, 10_000])
def test_chunked_scores_are_those_of_all_logits_at_once(mixed, slots_at_once):
    """7 divides neither the slots nor what any row sampled."""
    chunked, dense = objectives(*mixed)
    grad = lambda f: jax.jit(jax.value_and_grad(f, has_aux=True), static_argnums=1)  # noqa: E731
    (_, scores), gradient = grad(chunked)(tiny.params(), slots_at_once)
    (_, expected), theirs = jax.jit(jax.value_and_grad(dense, has_aux=True))(tiny.params())
    for mine, other in zip(scores, expected, strict=True):
        # Log-probabilities down to -10, entropies up to 6.5: up to eight units in the last place, as the order of
        # a sum over the vocabulary and the exponential depend on the machine's vector width.
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), rtol=8 * 2**-23, atol=2e-6)
    for (path, mine), other in zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(theirs), strict=True):
        scale = max(float(jnp.abs(other).max()), 1e-3)
        np.testing.assert_allclose(np.asarray(mine) / scale, np.asarray(other) / scale, atol=2e-5, err_msg=str(path))


def test_no_array_of_all_logits(mixed):
    """Forward and backward: nothing with a vocabulary axis is larger than a chunk."""
    t, weight = mixed
    chunked, dense = objectives(t, weight)
    batch, slots = t.tokens_BS.shape
    whole = batch * slots * tiny.VOCAB
    trace = lambda f: jax.make_jaxpr(jax.value_and_grad(f, has_aux=True))(tiny.params()).jaxpr  # noqa: E731
    assert widest(trace(dense), tiny.VOCAB) >= whole  # the search is not blind
    assert widest(trace(lambda params: chunked(params, 7)), tiny.VOCAB) == batch * 7 * tiny.VOCAB
