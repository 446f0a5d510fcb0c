"""Training state, and the compiled SFT and GRPO steps on tiny problems that must be learnable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvista_jax.learning.grpo import grpo_update
from medvista_jax.learning.state import OptimizerConfig, apply_gradients, join, split, start
from medvista_jax.rollout.record import total_slots
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.scripted import encode_slots
from tests import tiny


def test_split_and_join_are_inverse():
    moving, still = split(tiny.params(), ["^decoder", "connector/up"])
    assert not set(moving) & set(still)
    assert all(path.startswith(("decoder", "connector/up")) for path in moving)
    assert "connector/down/kernel" in still and "decoder/embedding" in moving
    again = join(moving, still)
    assert jax.tree.structure(again) == jax.tree.structure(tiny.params()) and tiny.same_bits(again, tiny.params())


def test_a_pattern_that_matches_nothing_is_named():
    with pytest.raises(ValueError) as error:
        split(tiny.params(), ["^decoder", "^language"])
    assert str(error.value) == (
        "trainable pattern '^language' matches no parameter; the tree has connector, decoder, vision"
    )


def test_apply_gradients_is_the_optimizers_update():
    optimizer = optax.sgd(0.5)
    state = start({"a": {"w": jnp.array([1.0, 2.0])}, "b": jnp.array([3.0])}, ["a/w"], optimizer, jax.random.key(0))
    new = apply_gradients(state, {"a/w": jnp.array([2.0, -2.0])}, optimizer)
    assert np.asarray(new.trainable["a/w"]).tolist() == [0.0, 3.0]
    assert int(new.step) == 1 and np.asarray(new.params()["b"]).tolist() == [3.0]


def test_optimizer_schedule():
    """AdamW's first steps move by the learning rate itself: warm-up from 0, peak, cosine to ``final`` of it."""
    config = OptimizerConfig(learning_rate=0.1, steps=40, warmup=0.25, final=0.1, clip_norm=1e9)
    optimizer = config.build()
    weights = {"w": jnp.zeros(1)}
    memory, update = optimizer.init(weights), jax.jit(optimizer.update)
    sizes = []
    for _ in range(42):
        updates, memory = update({"w": jnp.ones(1)}, memory, weights)
        sizes.append(-float(updates["w"][0]))
    np.testing.assert_allclose(sizes[:11], np.arange(11) / 10 * 0.1, atol=1e-5)
    middle = 0.01 + 0.09 * 0.5  # half-way between 10 and 40
    assert sizes[25] == pytest.approx(middle, abs=1e-5)
    assert sizes[40] == pytest.approx(0.01, abs=1e-5) and sizes[41] == pytest.approx(0.01, abs=1e-5)


def test_sft_learns_one_batch_and_leaves_the_frozen_half_alone():
    state = tiny.make_state(("^decoder", "^connector"))
    frozen = jax.tree.map(np.asarray, state.frozen)
    before = jax.tree.map(np.asarray, state.trainable)
    question, script = tiny.make_question(), tiny.make_script(tiny.LESSONS)
    losses = []
    for _ in range(20):
        state, metrics = tiny.learn(state, question, script)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0] and losses[5] < losses[0]
    assert int(state.step) == 20
    assert frozen and all(path.startswith("vision") for path in frozen)
    assert tiny.same_bits(state.frozen, frozen)
    still = [path for path in before if np.array_equal(before[path], np.asarray(state.trainable[path]))]
    assert still == []
    assert float(metrics["faults"]) == 0.0
    # The longest row is the third: prompt, two calls and the answer, and two observations with an image each.
    assert tiny.PROMPT_SLOTS < int(metrics["longest"]) < total_slots(tiny.environment(), tiny.PROMPT_SLOTS)


def test_sft_loss_is_the_mean_over_the_teachers_tokens():
    """Against a fresh forward of each row's sequence, log-softmax in numpy."""
    question, script = tiny.make_question(), tiny.make_script(tiny.LESSONS)
    _, metrics = tiny.learn(tiny.make_state(("^decoder", "^connector")), question, script)
    t, pixels = tiny.enacted(tiny.environment(), question, script)
    features = jax.jit(encode_slots, static_argnums=0)(tiny.MODEL, tiny.params(), pixels)
    total = count = 0
    for row in range(3):
        valid = np.asarray(t.valid_BS[row])
        order = np.concatenate([np.flatnonzero(valid), np.flatnonzero(~valid)])  # one shape, one compilation
        size = int(valid.sum())
        hidden, _ = tiny.forward(
            tiny.params(),
            t.tokens_BS[row][order][None],
            t.feature_BS[row][order][None],
            features[row : row + 1],
            jnp.arange(len(order))[None, :, None],
            jnp.asarray(np.arange(len(order)) < size)[None],
        )
        logits = np.asarray(tiny.logits(tiny.params(), hidden))[0, :size].astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        tokens, sampled = np.asarray(t.tokens_BS[row])[order][:size], np.asarray(t.sampled_BS[row])[order][:size]
        total += sum(logp[s - 1, tokens[s]] for s in range(1, size) if sampled[s])
        count += sampled.sum()
    assert count == int(np.asarray(script.length_BR).sum())
    assert float(metrics["loss"]) == pytest.approx(-total / count, abs=1e-4)


def test_sft_donates_its_state():
    state = tiny.make_state(("^decoder", "^connector"))
    new, _ = tiny.learn(state, tiny.make_question(), tiny.make_script(tiny.LESSONS))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.trainable))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tiny.params()))  # ``start`` copied


@pytest.mark.slow
def test_grpo_raises_the_reward_of_a_bandit():
    state, question, key = tiny.make_state(), tiny.make_question(max_turns=1), tiny.make_key()
    frozen = jax.tree.map(np.asarray, state.frozen)
    rewards = []
    for _ in range(25):
        old = state
        state, metrics = tiny.update(state, question, key)
        values = {name: float(value) for name, value in metrics.items()}
        assert all(np.isfinite(value) for value in values.values()), values
        assert values["logprob_mismatch_max"] <= 1e-4  # promise 2, at every step of a training run
        assert values["clip_fraction"] == 0.0  # one update a rollout: the ratio is 1
        rewards.append(values["reward"])
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.1
    assert tiny.same_bits(state.frozen, frozen)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.trainable))  # donated


def test_an_update_from_a_trajectory_that_was_played_apart_is_the_same_step():
    """Rollout and update in two programs, as host tools have it, and in one: the same policy up to rounding."""
    question, key, sampling = tiny.make_question(), tiny.make_key(), Sampling.at(1.0)
    state = tiny.make_state()
    step_key = jax.random.fold_in(state.key, state.step)
    trajectory = tiny.play(
        tiny.MODEL, state.params(), tiny.environment(), question, step_key, tiny.GRPO.group, sampling
    )
    apart, metrics = grpo_update(
        tiny.MODEL, tiny.optimizer(), tiny.GRPO, tiny.environment(), state, trajectory, key, sampling
    )
    together, expected = tiny.update(tiny.make_state(), question, key)
    assert metrics.keys() == expected.keys() and float(metrics["reward"]) == float(expected["reward"])
    np.testing.assert_allclose(float(metrics["grad_norm"]), float(expected["grad_norm"]), rtol=1e-5)
    pairs = [(np.asarray(apart.trainable[name]), np.asarray(leaf)) for name, leaf in together.trainable.items()]
    far = np.concatenate([(np.abs(one - other) > 1e-6).ravel() for one, other in pairs])
    assert far.mean() < 1e-3  # Adam's first step is the gradient's sign: where that is a rounding, it may differ
