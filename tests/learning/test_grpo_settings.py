"""What the settings of GRPO do to the compiled update, against losses written out here, dense and unchunked."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvista_jax.core.types import Trajectory
from medvista_jax.learning.accumulate import Bucket
from medvista_jax.learning.grpo import GRPOConfig, grpo_step, grpo_update, minibatch_rows
from medvista_jax.learning.kl import reference_of
from medvista_jax.learning.rewards import RewardTerms
from medvista_jax.learning.state import TrainState, join, start
from medvista_jax.learning.vision import render_slots
from medvista_jax.models.lora import TRAINABLE, LoRAConfig, init_lora, with_lora
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.scripted import encode_slots
from tests import tiny

SGD = optax.sgd(0.05)  # linear in the gradient: an update shows it to rounding
PLAIN = GRPOConfig(group=2, reward="low_ids", buckets=(), chunk=3)
REWARD = np.array([1.0, 0.0, 0.3, 0.9, -0.5, 2.0], np.float32)


def begin(trainable=("^decoder",), params=None) -> TrainState:
    return start(tiny.params() if params is None else params, trainable, SGD, jax.random.key(3))


def given(rewards=REWARD, **rest) -> RewardTerms:
    """Rewards as a host would hand them in."""
    return RewardTerms(jnp.asarray(rewards), jnp.zeros(len(rewards)), {}, **rest)


@pytest.fixture(scope="module")
def lied() -> Trajectory:
    """Six ragged rows whose recorded log-probabilities are off, as those of a quantised rollout are."""
    t = tiny.played(tiny.make_script(tiny.MIXED))
    noise = np.random.default_rng(0).normal(0.0, 0.3, t.tokens_BS.shape).astype(np.float32)
    return t.replace(logprobs_BS=jnp.where(t.sampled_BS, t.logprobs_BS + noise, 0.0))


def dense_logits(params, t: Trajectory, features) -> jax.Array:
    """Logits that choose the id of each slot, ``[B, S, V]``."""
    hidden, _ = tiny.MODEL.forward(params, t.tokens_BS, t.feature_BS, features, t.positions_BSZ, t.valid_BS)
    slots = jnp.arange(t.tokens_BS.shape[1])
    seen = jax.lax.cummax(jnp.where(t.valid_BS, slots[None], 0), axis=1)
    before = jnp.pad(seen[:, :-1], ((0, 0), (1, 0)))
    return tiny.MODEL.logits(params, jnp.take_along_axis(hidden, before[..., None], axis=1))


def dense_logprobs(params, t: Trajectory, features):
    """Log-probability of each id and entropy of what it was drawn from, ``[B, S]``."""
    log_p = jax.nn.log_softmax(dense_logits(params, t, features))
    picked = jnp.take_along_axis(log_p, t.tokens_BS[..., None], axis=-1)[..., 0]
    return picked, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def assert_same_update(found: TrainState, expected: dict, before: dict, relative: float = 2e-4):
    """Leaf by leaf, what was added: the same to ``relative`` of the largest."""
    for path, leaf in expected.items():
        mine, other = (np.asarray(x) - np.asarray(before[path]) for x in (found.trainable[path], leaf))
        assert np.abs(other).max() > 0, path
        np.testing.assert_allclose(mine, other, atol=relative * np.abs(other).max() + 1e-7, err_msg=path)


EVERYTHING = dataclasses.replace(
    PLAIN,
    advantage="rloo",
    clip_low=0.1,
    clip_high=0.15,
    dual_clip=1.2,
    normalisation="sequence",
    kl="k3",
    kl_coefficient=0.3,
    entropy_coefficient=0.05,
    mask_truncated=True,
    masked_rows_count=False,
    tis_bound=1.1,
    minibatches=2,
    epochs=2,
    buckets=(Bucket(120, 2),),
    remat="dots",
)


def test_two_epochs_of_two_minibatches_are_four_updates_one_by_one(lied):
    """Everything at once: RLOO over the rows that count, dual clip, KL to a reference, entropy bonus, masks, TIS with
    log-probabilities recomputed before the first update, rows averaged alike."""
    include = jnp.array([True, True, True, True, True, False])
    truncated = jnp.array([False, False, False, False, False, False]).at[1].set(True)
    t = lied.replace(truncated_B=truncated)
    state = begin()
    before = {path: np.asarray(leaf) for path, leaf in state.trainable.items()}
    reference = {path: leaf * 1.03 for path, leaf in before.items()}
    rows_UB = np.asarray(minibatch_rows(EVERYTHING, 6, jax.random.fold_in(state.key, state.step)))
    assert rows_UB.shape == (4, 3) and not np.array_equal(rows_UB[:2], rows_UB[2:])
    for epoch in (rows_UB[:2], rows_UB[2:]):
        assert sorted(epoch.ravel().tolist()) == list(range(6))

    keep = np.array([1, 0, 1, 1, 1, 0], bool)
    advantage = np.array([0, 0, 0.3 - 0.9, 0.9 - 0.3, 0, 0], np.float32)  # prompts 0 and 2 have one row that counts
    frozen = state.frozen
    score = jax.jit(lambda moving, t: dense_logprobs(join(moving, frozen), t, t.features_BILE)[0])
    old, refer = score(before, t), score(reference, t)

    @jax.jit
    def gradient(moving, rows):
        part = jax.tree.map(lambda leaf: leaf[rows], t)
        mask = part.sampled_BS & jnp.asarray(keep)[rows][:, None]

        def loss(moving):
            new, entropy = dense_logprobs(join(moving, frozen), part, part.features_BILE)
            ratio, a = jnp.exp(new - old[rows]), jnp.asarray(advantage)[rows][:, None]
            gain = jnp.minimum(ratio * a, jnp.clip(ratio, 0.9, 1.15) * a)
            gain = jnp.where(a < 0, jnp.maximum(gain, 1.2 * a), gain)
            gain *= jnp.minimum(jnp.exp(old[rows] - part.logprobs_BS), 1.1)
            delta = refer[rows] - new
            each = -gain + 0.3 * (jnp.exp(delta) - delta - 1) - 0.05 * entropy
            count = jnp.sum(mask, axis=1)
            row = jnp.sum(jnp.where(mask, each, 0.0), axis=1) / jnp.maximum(count, 1)
            return jnp.sum(row) / jnp.maximum(jnp.sum(count > 0), 1)

        return jax.value_and_grad(loss)(moving)

    moving, memory, losses = before, SGD.init(before), []
    for rows in rows_UB:
        value, gradients = gradient(moving, rows)
        updates, memory = SGD.update(gradients, memory, moving)
        moving = optax.apply_updates(moving, updates)
        losses.append(float(value))

    terms = given(include_B=include)
    found, metrics = grpo_update(
        tiny.MODEL, SGD, EVERYTHING, tiny.environment(), state, t, None, Sampling.at(1.0), terms, reference
    )
    assert int(found.step) == 4
    assert_same_update(found, moving, before)
    assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-4)
    first = np.isin(np.arange(6), rows_UB[0])[:, None] & keep[:, None] & np.asarray(t.sampled_BS)
    gap = np.abs(np.asarray(old - t.logprobs_BS))[first]
    assert float(metrics["logprob_mismatch_max"]) == pytest.approx(gap.max(), abs=1e-4)  # before any update
    assert float(metrics["logprob_mismatch_mean"]) == pytest.approx(gap.mean(), abs=1e-4)
    assert float(metrics["ratio_max"]) > 1.0 and 0.9 < float(metrics["ratio_mean"]) < 1.1
    assert 0.5 < float(metrics["tis_weight_mean"]) < 1.1 and float(metrics["kl"]) > 0
    assert float(metrics["reward"]) == pytest.approx(REWARD.mean())


def test_a_trained_tower_sees_the_views_again(lied):
    """The gradient of tower, connector and decoder is that of one dense loss through ``encode_slots``; the pixels are
    those that the policy saw, rendered slot by slot."""
    question = tiny.make_question()
    trainable = ("^vision", "^connector", "^decoder")
    t = tiny.played(tiny.make_script(tiny.MIXED), question)
    pixels = [
        np.asarray(tiny.render_views(tiny.environment(), question.bank, t.views, jnp.where(i < t.views.count_B, i, -1)))
        for i in range(t.views.view.blend.shape[1])
    ]
    pixels = np.stack(pixels, axis=1)
    originals = np.asarray(tiny.render_originals(tiny.environment(), question.bank))
    np.testing.assert_array_equal(pixels[:, 0], np.repeat(originals[:, 0], 2, axis=0))
    np.testing.assert_array_equal(np.asarray(jax.jit(render_slots)(tiny.environment(), question.bank, t)), pixels)

    config = dataclasses.replace(PLAIN, advantage="mean", normalisation="constant", train_vision=True, remat="full")
    state = begin(trainable)
    before = {path: np.asarray(leaf) for path, leaf in state.trainable.items()}
    advantage = REWARD - np.repeat(REWARD.reshape(3, 2).mean(1), 2)

    def loss(moving):
        params = join(moving, {})
        new, _ = dense_logprobs(params, t, encode_slots(tiny.MODEL, params, jnp.asarray(pixels)))
        gain = jnp.exp(new - t.logprobs_BS) * jnp.asarray(advantage)[:, None]
        return -jnp.sum(jnp.where(t.sampled_BS, gain, 0.0)) / (6 * tiny.TURNS * tiny.TURN_TOKENS)

    gradients = jax.jit(jax.grad(loss))(before)
    expected = optax.apply_updates(before, jax.tree.map(lambda g: -0.05 * g, gradients))
    # What shifts all keys alike has no gradient but rounding: neither side's is worth comparing.
    felt = {path: leaf for path, leaf in expected.items() if float(jnp.abs(gradients[path]).max()) > 1e-5}
    assert {path.split("/")[0] for path in felt} == {"vision", "connector", "decoder"} and len(felt) > len(before) - 3
    found, metrics = grpo_update(
        tiny.MODEL, SGD, config, tiny.environment(), state, t, None, Sampling.at(1.0), given(), bank=question.bank
    )
    assert_same_update(found, felt, before, 1e-3)
    assert float(metrics["logprob_mismatch_max"]) <= 1e-4  # the tower gives what it gave in the rollout


def test_adapters_are_judged_against_the_base():
    """k1 in the reward with LoRA: the reference of the start is the base model, and its penalty reaches the turns."""
    model = with_lora(tiny.MODEL, LoRAConfig(2, 4.0))
    params = init_lora(model, tiny.params(), jax.random.key(1))
    state = start(params, (TRAINABLE,), SGD, jax.random.key(2))
    reference = reference_of(state)
    moved = {path: leaf + 0.05 for path, leaf in state.trainable.items()}
    state = state.replace(trainable=moved)
    before = {path: np.asarray(leaf) for path, leaf in moved.items()}
    config = dataclasses.replace(PLAIN, advantage="rloo_turns", turn_discount=0.9, kl="k1", kl_coefficient=0.2, chunk=6)
    script, question = tiny.make_script(tiny.MIXED), tiny.make_question()
    t = tiny.play(model, state.params(), tiny.environment(), question, jax.random.key(1), 2, Sampling.at(1.0), script)
    base = tiny.score(tiny.MODEL, tiny.params(), t, t.features_BILE, jnp.ones(())).logprob_BS
    k1 = np.where(np.asarray(t.sampled_BS), np.asarray(t.logprobs_BS) - np.asarray(base), 0.0)
    turn, turns = np.asarray(t.turn_BS), np.asarray(t.turns_B)
    mine = np.random.default_rng(1).normal(size=(6, tiny.TURNS)).astype(np.float32)

    advantage = np.zeros((6, tiny.TURNS))
    returns = np.zeros((6, tiny.TURNS))
    for row in range(6):
        ahead = REWARD[row]
        for r in range(turns[row] - 1, -1, -1):
            earned = mine[row, r] - 0.2 * k1[row][turn[row] == r].sum()
            ahead = earned + (ahead if r == turns[row] - 1 else 0.9 * ahead)
            returns[row, r] = ahead
    for row in range(6):
        other = row ^ 1
        for r in range(turns[row]):
            advantage[row, r] = returns[row, r] - returns[other, min(r, turns[other] - 1)]
    each = np.where(turn >= 0, np.take_along_axis(advantage, np.maximum(turn, 0), axis=1), 0.0)

    def loss(moving):
        scores = tiny.score(model, join(moving, state.frozen), t, t.features_BILE, jnp.ones(()))
        gain = jnp.exp(scores.logprob_BS - t.logprobs_BS) * jnp.asarray(each, jnp.float32)
        return -jnp.sum(jnp.where(t.sampled_BS, gain, 0.0)) / jnp.sum(t.sampled_BS)

    gradients = jax.jit(jax.grad(loss))(before)
    expected = optax.apply_updates(before, jax.tree.map(lambda g: -0.05 * g, gradients))
    found, metrics = grpo_update(
        model,
        SGD,
        config,
        tiny.environment(),
        state,
        t,
        None,
        Sampling.at(1.0),
        given(turn_BR=jnp.asarray(mine)),
        reference,
    )
    assert float(metrics["kl"]) == pytest.approx(k1.sum() / np.asarray(t.sampled_BS).sum(), abs=1e-5)
    assert abs(float(metrics["kl"])) > 1e-3
    assert_same_update(found, expected, before, 1e-3)
    fresh = reference_of(start(params, (TRAINABLE,), SGD, jax.random.key(2)))
    assert tiny.same_bits(fresh, reference)  # and the step that donated its state left the reference alone


def test_defaults_say_nothing_of_what_is_off(lied):
    shapes = jax.eval_shape(
        lambda state, t: grpo_update(
            tiny.MODEL, SGD, PLAIN, tiny.environment(), state, t, tiny.make_key(), Sampling.at(1.0)
        )[1],
        begin(),
        lied,
    )
    assert set(shapes) == {
        *("loss", "clip_fraction", "entropy", "logprob_mismatch_mean", "logprob_mismatch_max", "longest", "grad_norm"),
        *("reward", "reward_low", "accuracy", "calls_per_question", "faults", "truncated", "sampled_tokens"),
        *("prompt_text_tokens", "prompt_image_tokens", "observed_text_tokens", "observed_image_tokens"),
        "flat_groups",
    }


BAD = [
    ({"loss": "ppo"}, "loss 'ppo' is unknown; there are clip, gspo, gspo_token, cispo"),
    ({"advantage": "gae"}, "advantage 'gae' is unknown; there are grpo, mean, dr_grpo, rloo, rloo_turns"),
    ({"normalisation": "none"}, "normalisation 'none' is unknown; there are token, sequence, constant"),
    ({"kl": "k4"}, "kl 'k4' is unknown; there are none, k1, k2, k3"),
    ({"remat": "half"}, "remat 'half' is unknown; there are none, full, dots, dots_no_batch"),
    ({"minibatches": 0}, "minibatches must be at least 1, not 0"),
    ({"dual_clip": 1.0}, "dual_clip must be above 1, not 1.0"),
    ({"dual_clip": 3.0, "loss": "cispo"}, "dual_clip belongs to loss 'clip', not to 'cispo'; leave it out"),
    ({"tis_bound": 0.0}, "tis_bound must be positive, not 0.0"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError) as error:
        GRPOConfig(**settings)
    assert str(error.value) == message


def refused(config: GRPOConfig, state: TrainState, t: Trajectory, **rest) -> str:
    with pytest.raises(ValueError) as error:
        grpo_update(tiny.MODEL, SGD, config, tiny.environment(), state, t, tiny.make_key(), Sampling.at(1.0), **rest)
    return str(error.value)


def test_what_does_not_go_together_is_refused_before_anything_runs(lied):
    with_kl = dataclasses.replace(PLAIN, kl="k3", kl_coefficient=0.1)
    assert refused(with_kl, begin(), lied).startswith("kl='k3' needs a reference: hand in reference=reference_of")
    state = begin()
    assert "does not use a reference" in refused(PLAIN, state, lied, reference=reference_of(state))
    odd = {**reference_of(state), "decoder/more": jnp.zeros(1)}
    assert "'decoder/more' is in one of them only" in refused(with_kl, state, lied, reference=odd)
    message = refused(PLAIN, begin(("^vision", "^decoder")), lied)
    assert "is trainable, but the loss reads the image features of the rollout" in message
    assert "set train_vision=True, or train the decoder only" in message
    assert "hand in bank" in refused(dataclasses.replace(PLAIN, train_vision=True), begin(), lied)
    assert "4 minibatches do not divide a batch of 6 rows" in refused(
        dataclasses.replace(PLAIN, minibatches=4, chunk=1), begin(), lied
    )
    unknown = refused(dataclasses.replace(PLAIN, reward="gold"), begin(), lied)
    assert unknown.startswith("reward 'gold' is unknown; there are ") and "vista_r1" in unknown
    with pytest.raises(ValueError, match="is trainable, but the loss reads"):
        grpo_step(
            tiny.MODEL,
            SGD,
            PLAIN,
            tiny.environment(),
            begin(("^connector",)),
            tiny.make_question(),
            tiny.make_key(),
            Sampling.at(1.0),
        )
